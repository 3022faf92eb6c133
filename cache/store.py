"""Where things lie under a store's URL, a folder or a bucket; the only thing that the machines of a set-up share.

STORE/annotations/<dataset>/<split>/           published split, see cache/split_store.py
      features/<dataset>/<split>/<spec id>/    one Zarr group per feature set
      proposals/<dataset>/<split>/<name>.h5    one file per detector
      runs/<run id>/                           recipe, checkpoints and events of a training
      jobs/<job id>/                           request, record and events of a precompute job
      weights/                                 backbones and heads that a training may start from
"""

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from cache.object_store import mirror_at
from stal_data.errors import InputError, NotFoundError, did_you_mean, how_to_install, shown
from stal_data.names import check_name

if TYPE_CHECKING:
    from cache.object_store.mirror import Mirror

# One slash is enough: a `Path` of a URL has lost the other.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where a machine keeps shards of a bucket that it has read. folder: None is the default one of the URL."""

    folder: Path | None = None
    limit_bytes: int | None = None
    """None keeps no shards: rows are read from the bucket each time."""


class Folder:
    """A store in a folder: everything is there, so there is nothing to bring or to send. Compare `Mirror`."""

    def __init__(self, root: Path) -> None:
        self.name = str(root)

    def fetch(self, path: Path) -> None:
        """Make a file what the store has, and remove it where it has none."""

    def publish(self, path: Path) -> None:
        """Send a file to the store."""

    def fetch_weights(self, name: str | None = None) -> None:
        """Bring all weights that the store has, or those of a name below `weights`, if it has them."""

    def fetch_proposals(self, dataset: str | None, split: str | None) -> None:
        """Bring the proposals that the store has, and remove those that it has no more. None is any."""

    def splits(self, kind: str, dataset: str | None, split: str | None) -> list[str]:  # noqa: ARG002
        """Return `kind/dataset/split/` for each split of which something is elsewhere. None is any."""
        return []

    def folders(self, kind: str, dataset: str | None, split: str | None) -> list[str]:  # noqa: ARG002
        """Return the folders right below `kind/dataset/split` of which something is elsewhere."""
        return []

    def require_conditional_put(self) -> None:
        """Refuse a server on which two machines could write one shard without noticing."""


@dataclass(frozen=True, slots=True)
class Store:
    """A store in a local or mounted folder, or in a bucket that a local folder mirrors.

    root: the folder; absolute, so a child process may have another working folder, and opens the same store by it.
    backend: where everything is that is not in `root`.
    """

    root: Path
    backend: "Folder | Mirror" = field(compare=False, repr=False)

    @classmethod
    def open(cls, url: str | Path, *, create: bool = False, may_lack: bool = False, stage: Stage | None = None) -> Self:
        """Open the store at `url`: a folder, or `s3://BUCKET/PREFIX`.

        create: make it where there is none, else that is an error. may_lack: neither; then nothing is in it.
        stage: only for a bucket.
        """
        text = str(url)
        if text.startswith("s3://"):
            return cls._in_bucket(text, create or may_lack, stage or Stage())
        if stage is not None:
            raise InputError(f"--stage is for a store in a bucket; '{text}' is a folder, which is read as it is.")
        if _URL.match(text) and not text.startswith("file://"):
            raise InputError(
                f"The store '{text}' is neither a folder nor s3://BUCKET/PREFIX; mount it, or copy it to one of these."
            )
        folder = text.removeprefix("file://")
        if folder != text and not folder.startswith("/"):
            raise InputError(f"The store '{text}' must be file:///FOLDER with three slashes, or the folder alone.")
        root = Path(folder).absolute()
        try:
            if root.exists() and not root.is_dir():
                raise InputError(f"The store '{text}' is a file; it must be a folder.")
            if create:
                root.mkdir(parents=True, exist_ok=True)
            elif not root.exists() and not may_lack:
                raise NotFoundError(
                    f"There is no store at '{text}'; 'stal-cli precompute ... --store {text}' makes one."
                )
        except OSError as error:
            problem = f"{'made' if create else 'opened'} ('{error.filename}': {error.strerror})"
            raise InputError(
                f"The store '{text}' cannot be {problem}; it must be a folder that may be read and written."
            ) from error
        return cls(root, mirror_at(root) or Folder(root))

    @classmethod
    def _in_bucket(cls, text: str, create: bool, stage: Stage) -> Self:
        try:
            from cache.object_store.mirror import Mirror, not_found
        except ModuleNotFoundError as error:
            raise InputError(f"A store in a bucket needs '{error.name}'; {how_to_install('s3')}") from None
        mirror = Mirror.open(text, folder=stage.folder, stage_bytes=stage.limit_bytes)
        if not (mirror.exists() or create):
            raise not_found(text)
        return cls(mirror.root, mirror)

    @property
    def name(self) -> str:
        """The folder, or the bucket's URL."""
        return self.backend.name

    @property
    def mirror(self) -> "Mirror | None":
        """What only a bucket has."""
        return None if isinstance(self.backend, Folder) else self.backend

    @property
    def in_bucket(self) -> bool:
        return self.mirror is not None

    @property
    def free_bytes(self) -> int | None:
        """The room on the disk; None in a bucket."""
        if self.in_bucket:
            return None
        existing = next(folder for folder in (self.root, *self.root.parents) if folder.exists())
        return shutil.disk_usage(existing).free

    def annotations_dir(self, dataset: str, split: str) -> Path:
        return self._split_dir("annotations", dataset, split)

    def features_dir(self, dataset: str, split: str) -> Path:
        return self._split_dir("features", dataset, split)

    def proposals_dir(self, dataset: str, split: str) -> Path:
        return self._split_dir("proposals", dataset, split)

    @property
    def runs_dir(self) -> Path:
        return self.root / "runs"

    @property
    def jobs_dir(self) -> Path:
        return self.root / "jobs"

    @property
    def weights_dir(self) -> Path:
        return self.root / "weights"

    def weights_file(self, field: str, name: str) -> Path:
        """Return an existing file below the weights folder; `field` is what the message calls it.

        Links are followed first, so that none leads out of the folder.
        """
        root = self.weights_dir.resolve()
        try:
            path = (root / name).resolve()
            path.exists()
        except (OSError, ValueError, RuntimeError):  # too long, a NUL, links in a circle
            raise InputError(f"{field} {shown(name)} cannot be a path; give one relative to '{root}'.") from None
        if not path.is_relative_to(root):
            raise InputError(f"{field} '{name}' is outside '{root}'; give a path relative to that folder.")
        self.backend.fetch_weights(name)
        if not path.is_file():
            known = [str(found.relative_to(root)) for found in root.rglob("*.safetensors")]
            raise NotFoundError(
                f"{field} '{name}' does not exist in '{self.name}/weights'; put the .safetensors file there. "
                f"{did_you_mean(name, known)}"
            )
        return path

    def find_weights(self) -> list[Path]:
        """Return the safetensors files of the weights folder, sorted; from a bucket they are brought here."""
        self.backend.fetch_weights()
        return sorted(self.weights_dir.rglob("*.safetensors"))

    def find(
        self, kind: Literal["annotations", "features", "proposals"], dataset: str | None, split: str | None, name: str
    ) -> list[Path]:
        """Return the existing paths whose last part fits the pattern `name`, sorted; None is any data set or split."""
        for option, value in (("dataset", dataset), ("split", split)):
            if value is not None:
                check_name(option, value)
        return sorted(self.root.glob(f"{kind}/{dataset or '*'}/{split or '*'}/{name}"))

    def _split_dir(self, kind: str, dataset: str, split: str) -> Path:
        check_name("dataset", dataset)
        check_name("split", split)
        return self.root / kind / dataset / split
