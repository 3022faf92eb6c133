"""What `stal-cli doctor --store` tries: may this machine write there, and do locks keep writers apart?"""

import os
import re
import shutil
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from cache.store import Store
from stal_data.errors import StalError
from stal_data.file_lock import FileLock, NoFileLocksError

# By these options of NFS, Lustre and SMB a lock is one of this machine alone, and no call tells so.
_LOCAL_LOCKS = {"local_lock=flock", "local_lock=all", "nolock", "localflock", "nobrl"}


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A line of /proc/self/mounts."""

    folder: Path
    kind: str
    options: tuple[str, ...]


def check_store(url: str) -> tuple[str, list[str]]:
    """What the store is, and a sentence for each thing that would stop a writer."""
    try:
        store = Store.open(url, may_lack=True)
        store.backend.require_conditional_put()
        if store.in_bucket:
            return f"{store.name}: readable, writable, conditions on writes hold", []
    except (StalError, OSError) as error:
        return f"{url}: unusable", [str(error)]
    folder = store.root
    while not folder.is_dir():
        folder = folder.parent
    mount = mount_of(folder, Path("/proc/self/mounts").read_text(encoding="utf-8"))
    problems = [*_write_and_lock(folder), *local_locks(mount)]
    missing = "" if folder == store.root else f", not there yet, so {folder} was tried"
    state = "unusable" if problems else "writable, locks hold"
    return f"{url} ({mount.kind}, {shutil.disk_usage(folder).free / 1e9:.1f} GB free{missing}): {state}", problems


def _write_and_lock(folder: Path) -> list[str]:
    user = f"user {os.geteuid()}"
    try:
        descriptor, name = tempfile.mkstemp(prefix=".stal-doctor-", dir=folder)
    except OSError as error:
        return [
            f"{user} cannot write into '{folder}' ({error.strerror}): give the folder to that user, or take another"
        ]
    try:
        os.write(descriptor, b"stal")
        os.fsync(descriptor)
        with FileLock.take(Path(name)) or nullcontext(), FileLock.take(Path(name)) or nullcontext() as other:
            if other is None:
                return []
        return [f"locks on '{folder}' keep nobody out: put the store on a file system whose flock works (NFS 4 has it)"]
    except NoFileLocksError as error:
        return [str(error)]
    except OSError as error:
        return [f"writing a file in '{folder}' failed ({error.strerror})"]
    finally:
        os.close(descriptor)
        Path(name).unlink(missing_ok=True)


def local_locks(mount: Mount) -> list[str]:
    """A sentence where locks do not reach the other machines that have mounted the same."""
    return [
        f"'{mount.folder}' ({mount.kind}) is mounted with {option}: its locks do not reach other machines, and two of "
        "them could write one shard; mount it without this option, or let one machine write"
        for option in mount.options
        if option in _LOCAL_LOCKS
    ]


def mount_of(folder: Path, mounts: str) -> Mount:
    """The mount that an existing folder is on. mounts: the text of /proc/self/mounts."""
    place = folder.resolve()
    found = Mount(folder=Path("/"), kind="unknown", options=())
    for line in mounts.splitlines():
        _, target, kind, options, *_ = line.split(" ")
        root = Path(re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), target))
        # Of several on one folder the last lies on top.
        if place.is_relative_to(root) and len(root.parts) >= len(found.folder.parts):
            found = Mount(folder=root, kind=kind, options=tuple(options.split(",")))
    return found
