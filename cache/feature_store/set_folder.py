"""Where one feature set lies. `locate.set_folder` chooses between a folder and the mirror of a bucket, once."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from cache.feature_store.claim import ShardClaim, describe_owner
from cache.feature_store.set_lock import locks_folder
from cache.feature_store.shards import MappedFile, RowSource
from cache.files import sync, sync_tree

Pair = tuple[int, int]
"""A row, and its place in the batch."""


class SetFolder:
    """A set in a folder that is all there is. `remote_set.RemoteSet` says what is different in a bucket.

    path: the set's folder; absolute.
    """

    staged = False
    """Whether shards are copied here once they were read."""
    syncs = True
    """Whether what is written here is to survive a power cut."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._locks = locks_folder(path)

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def in_bucket(self) -> bool:
        """Whether rows come over the network each time."""
        return False

    def refresh(self) -> bool:
        """Have the metadata and the index here; False where there is no such set."""
        return self.path.exists()

    def refresh_marks(self, shard: int | None = None) -> None:
        """Have the columns `done` and `digest` here as they are in the store, of one shard or all."""

    def read_rows(self, read: Callable[[Sequence[Pair]], None], pairs: Sequence[Pair]) -> None:
        """Call `read` with the pairs, in as many parts at once as is fast."""
        read(pairs)

    def open_shard(self, path: Path) -> RowSource:
        """Open one shard of one array, of which `path` is the place in the folder."""
        return MappedFile(path)

    def unstage(self, shard: int | str) -> None:
        """Remove the copies of a shard that changed in the bucket, or that turned out to be damaged."""

    def num_bytes(self) -> int:
        """Return the size of all files."""
        total = 0
        for file in self.path.rglob("*"):
            with suppress(FileNotFoundError):  # a writer's temporary file may be gone by now
                total += file.stat().st_size if file.is_file() else 0
        return total

    def claim(self, shard: int) -> ShardClaim | None:
        """Return the right to write a shard, or None while somebody else holds it."""
        return ShardClaim.take(self._locks, shard)

    def owner(self, shard: int) -> str:
        """Return who holds, or last held, the claim on a shard."""
        return describe_owner(self._locks, shard)

    def create(self, made: Path) -> None:
        """Make the folder `made`, a complete and empty set, this one. OSError where another writer was faster."""
        sync_tree(made)
        made.rename(self.path)
        sync(self.path.parent)

    def write_folder(self, owner: object) -> Path:  # noqa: ARG002
        """Return the folder in which `owner` writes shards."""
        return self.path

    def settle(self, folder: Path, files: Sequence[Path], claim: ShardClaim) -> None:  # noqa: ARG002
        """Make what was written in `write_folder` durable, with the names of all new folders above it."""
        for path in files:
            sync(path)
            above = path.parent
            while above != folder:
                sync(above)
                above = above.parent
