"""The local folder of a store in a bucket: small files are brought here to be read, and sent from here."""

import hashlib
import json
import os
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from cache.files import locked, replacing
from cache.object_store.bucket import Bucket, BucketUrl, md5, no_conditions
from cache.object_store.marker import MARKER
from cache.object_store.staged_shards import StagedShards
from stal_data.errors import ConflictError, InputError, NotFoundError
from stal_data.names import is_name

_open: dict[tuple[int, Path], "Mirror"] = {}
_lock = threading.Lock()


class Mirror:
    """The folder has the layout of a store. Processes may share it; what the bucket has counts, never what is here.

    stage: keeps whole shards below the folder; None reads rows from the bucket each time.
    folder_id: tells this folder from another machine's.
    """

    def __init__(self, root: Path, bucket: Bucket, folder_id: str, stage: StagedShards | None) -> None:
        self.root, self.bucket, self.folder_id, self.stage = root, bucket, folder_id, stage
        self._conditional = False

    @classmethod
    def open(cls, text: str, *, folder: Path | None = None, stage_bytes: int | None = None) -> Self:
        """Open the mirror of the bucket's URL; its folder is made when missing.

        folder: by default one below $XDG_CACHE_HOME or ~/.cache, the same for the same URL.
        stage_bytes: how much of the shards to keep in the folder; None keeps none.
        """
        url = BucketUrl.parse(text)
        bucket = Bucket(url)
        server = hashlib.sha256(bucket.endpoint.encode()).hexdigest()[:16]
        root = (folder or _default_folder(url, server)).absolute()
        try:
            folder_id = _mark(root, {"url": str(url), "server": server, "stage_bytes": stage_bytes})
        except OSError as error:
            raise InputError(
                f"The mirror of '{url}' cannot be made in '{root}': {error.strerror or error}; name another folder "
                "with --stage, or set XDG_CACHE_HOME."
            ) from error
        mirror = cls(root, bucket, folder_id, None if stage_bytes is None else StagedShards(root, stage_bytes))
        with _lock:
            _open[os.getpid(), root] = mirror
        return mirror

    @classmethod
    def at(cls, root: Path) -> "Mirror":
        """Return the mirror in a folder that has a marker."""
        key = (os.getpid(), root)
        with _lock:
            found = _open.get(key)
        if found is None:
            marker = _read_marker(root / MARKER)
            found = cls.open(marker["url"], folder=root, stage_bytes=marker["stage_bytes"])
        return found

    @property
    def name(self) -> str:
        """The bucket's URL."""
        return str(self.bucket.url)

    def key_of(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def exists(self) -> bool:
        """Whether the bucket has anything of this store; a wrong endpoint shows within seconds."""
        return self.bucket.any(attempts=5)

    def fetch(self, path: Path) -> None:
        """Make a file what the bucket has, and remove it where it has none."""
        key = self.key_of(path)
        info = self.bucket.head(key)
        if info is None or not same_content(path, info.etag):
            found = None if info is None else self.bucket.get(key)
            write_or_remove(path, None if found is None else found.content)

    def publish(self, path: Path) -> None:
        """Write a file to the bucket, unless it has the same."""
        key = self.key_of(path)
        info = self.bucket.head(key)
        if info is None or not same_content(path, info.etag):
            self.bucket.put(key, path)

    def folders(self, kind: str, dataset: str | None, split: str | None) -> list[str]:
        """Return the folders that the bucket has right below `kind/dataset/split`; None is any."""
        return [f"{folder}{name}" for folder in self.splits(kind, dataset, split) for name in self.names(folder)]

    def fetch_proposals(self, dataset: str | None, split: str | None) -> None:
        """Bring the proposals that the bucket has, and remove those that it has no more."""
        paths = set(self.root.glob(f"proposals/{dataset or '*'}/{split or '*'}/[!.]*.h5"))
        for folder in self.splits("proposals", dataset, split):
            names = [info.key.removeprefix(folder) for info in self.bucket.objects(folder)]
            paths |= {self.root / folder / name for name in names if name.endswith(".h5") and is_name(name)}
        for path in paths:
            self.fetch(path)

    def fetch_weights(self, name: str | None = None) -> None:
        """Bring all weights that the bucket has, or those of a name below `weights`, if it has them."""
        if name is not None:
            if self.bucket.head(f"weights/{name}") is not None:
                self.fetch(self.root / "weights" / name)
            return
        for info in self.bucket.objects("weights/"):
            if info.key.endswith(".safetensors") and all(map(is_name, info.key.split("/"))):
                self.fetch(self.root / info.key)

    def splits(self, kind: str, dataset: str | None, split: str | None) -> list[str]:
        """Return `kind/dataset/split/` for each split that the bucket has; None is any."""
        return [
            f"{kind}/{some_dataset}/{some_split}/"
            for some_dataset in ([dataset] if dataset else self.names(f"{kind}/"))
            for some_split in ([split] if split else self.names(f"{kind}/{some_dataset}/"))
        ]

    def names(self, folder: str) -> list[str]:
        """The folders right below one that may be of a store; a key such as `../x` must not lead out of the mirror."""
        return [name for name in self.bucket.folders(folder) if is_name(name)]

    def require_conditional_put(self) -> None:
        """Refuse a server that ignores conditions on writes: two machines would write one shard without noticing."""
        if self._conditional:
            return
        key = f".probe/{uuid.uuid4().hex}"
        try:
            first = self.bucket.put_if(key, b"1", etag=None)
            honest = (
                first is not None
                and self.bucket.put_if(key, b"2", etag=None) is None
                and self.bucket.put_if(key, b"3", etag="0" * 32) is None
                and self.bucket.put_if(key, b"4", etag=first) is not None
            )
        finally:
            self.bucket.delete(key)
        if not honest:
            raise no_conditions(self.bucket.url)
        self._conditional = True


def same_content(path: Path, etag: str) -> bool:
    """Whether a file is the object with this etag: the MD5 of what one request wrote, on most servers.

    Where it is something else (some encryptions), the file is fetched again each time.
    """
    with suppress(FileNotFoundError):
        return md5(path).hex() == etag
    return False


def write_or_remove(path: Path, content: bytes | None) -> None:
    """Replace a file at once, or remove it. Not made durable: after a power cut it is fetched again."""
    if content is None:
        path.unlink(missing_ok=True)
        return
    with replacing(path, durable=False) as partial:
        partial.write_bytes(content)


def not_found(url: str) -> NotFoundError:
    return NotFoundError(
        f"There is no store at '{url}': nothing lies below it. 'stal-cli precompute ... --store {url}' makes one."
    )


def _default_folder(url: BucketUrl, server: str) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "stal" / f"{url.bucket}-{hashlib.sha256(f'{url} {server}'.encode()).hexdigest()[:12]}"


def _mark(root: Path, wanted: dict[str, Any]) -> str:
    """Make the folder the mirror of what is wanted, unless it is another's; return its id.

    Processes that start at once agree on the id: by it a claim of a dead process of this folder is known.
    """
    marker = root / MARKER
    # Whatever else a mirror holds comes after the marker; so that is looked for later.
    held = [path for path in root.iterdir() if MARKER not in path.name] if root.is_dir() else []
    if (held and not marker.exists()) or (root.exists() and not root.is_dir()):
        raise InputError(f"'{root}' holds something else; name a folder that is empty or missing.")
    with locked(root / f"{MARKER}.lock"):
        found = _read_marker(marker) if marker.exists() else {"folder": uuid.uuid4().hex, **wanted}
        if (found["url"], found["server"]) != (wanted["url"], wanted["server"]):
            raise ConflictError(
                f"The folder '{root}' mirrors {found['url']}, not {wanted['url']}, or that name on another server; "
                "choose another folder, or delete it if nothing uses it."
            )
        content = json.dumps({**wanted, "folder": found["folder"]}, indent=2) + "\n"
        if not marker.exists() or marker.read_text(encoding="utf-8") != content:
            with replacing(marker) as partial:
                partial.write_text(content, encoding="utf-8")
    return str(found["folder"])


def _read_marker(path: Path) -> dict[str, Any]:
    try:
        found = dict(json.loads(path.read_text(encoding="utf-8")))
        return {name: found[name] for name in ("url", "server", "folder", "stage_bytes")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{path}' is damaged ({error!r}); delete its folder, the bucket has everything.") from None
