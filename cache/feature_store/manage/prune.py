"""Deleting feature sets, but none that something uses."""

import re
import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cache.feature_store.catalog import describe_feature_set
from cache.feature_store.locate import feature_set_folders, set_folder
from cache.feature_store.set_lock import sole_use
from cache.files import sync
from cache.store import Store
from stal_data.errors import ConflictError, InputError, NotFoundError, StalError, did_you_mean
from stal_data.files import temporary_name

_SET_ID = re.compile(r"[0-9a-f]{16}")
_LEFT = re.compile(r"\.[0-9a-f]{16}\..+\.[0-9a-f]{32}\.partial")
"""Names of sets and of half ones. Folders of other names in a store are not ours: they are no candidates."""


@dataclass(frozen=True, kw_only=True)
class Criteria:
    """Which sets to delete: those that fit one of these; the fields are the arguments of `prune_candidates`."""

    set_ids: Collection[str]
    incomplete: bool
    written_before_s: float | None

    def reason(self, folder: Path) -> str:
        """Return why the set in a folder fits; empty if it does not."""
        reasons = ["named"] if folder.name in self.set_ids else []
        if self.incomplete and (reason := _incompleteness(folder)):
            reasons.append(reason)
        if self.written_before_s is not None and _last_written_s(folder) < self.written_before_s:
            reasons.append("old")
        return ", ".join(reasons)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A folder that fits what was asked for. reason: why. in_use: something holds it now, so it stays.

    criteria: None for what killed processes left.
    """

    path: Path
    dataset: str
    split: str
    set_id: str
    num_bytes: int
    reason: str
    in_use: bool
    criteria: Criteria | None


def prune_candidates(
    store: Store,
    *,
    dataset: str | None = None,
    split: str | None = None,
    set_ids: Collection[str] = (),
    incomplete: bool = False,
    written_before_s: float | None = None,
) -> list[Candidate]:
    """Return the sets that fit one of the criteria, and what killed processes left half made or half deleted.

    set_ids: these, whatever their state. incomplete: those with key frames that are not computed, and those that
    cannot be opened. written_before_s: those that nothing was written to since then, in seconds since 1970.
    """
    if store.in_bucket:
        raise InputError(
            f"'{store.name}' is in a bucket, where nothing tells whether another machine reads a feature set; delete "
            "its prefix features/DATASET/SPLIT/ID/ there with the server's own tool when no job runs."
        )
    folders = [path for path in feature_set_folders(store, dataset, split) if _SET_ID.fullmatch(path.name)]
    known = {folder.name for folder in folders}
    for set_id in set_ids:
        if set_id not in known:
            raise NotFoundError(f"'{store.name}' has no feature set '{set_id}'. {did_you_mean(set_id, known)}")
    criteria = Criteria(set_ids=set_ids, incomplete=incomplete, written_before_s=written_before_s)
    found = [
        _candidate(folder, folder.name, reason, criteria) for folder in folders if (reason := criteria.reason(folder))
    ]
    leftovers = [path for path in store.find("features", dataset, split, ".*.partial") if _LEFT.fullmatch(path.name)]
    return found + [_candidate(path, path.name.split(".")[1], "left by a killed process", None) for path in leftovers]


def delete_feature_set(candidate: Candidate) -> None:
    """Delete the folder; an error while a job, a service or precompute uses the set, or when the reason has changed.

    It loses its name first, at once, so that a kill leaves no half set under that name.
    """
    with sole_use(candidate.path.with_name(candidate.set_id)):
        reason = candidate.reason if candidate.criteria is None else candidate.criteria.reason(candidate.path)
        if not candidate.path.exists() or reason != candidate.reason:
            raise ConflictError(
                f"'{candidate.path}' has changed since it was looked at ({candidate.reason} then, {reason or 'sound'} "
                "now); prune again."
            )
        hidden = candidate.path
        if not hidden.name.endswith(".partial"):
            hidden = temporary_name(candidate.path)
            candidate.path.rename(hidden)
            sync(hidden.parent)
        shutil.rmtree(hidden)


def _candidate(path: Path, set_id: str, reason: str, criteria: Criteria | None) -> Candidate:
    in_use = False
    try:
        with sole_use(path.with_name(set_id)):
            pass
    except ConflictError:
        in_use = True
    return Candidate(
        path=path,
        dataset=path.parent.parent.name,
        split=path.parent.name,
        set_id=set_id,
        num_bytes=set_folder(path).num_bytes(),
        reason=reason,
        in_use=in_use,
        criteria=criteria,
    )


def _incompleteness(folder: Path) -> str:
    try:
        info = describe_feature_set(folder)
    except StalError:
        return "cannot be opened"
    return "" if info.complete else f"{info.num_rows - info.num_done} of {info.num_rows} rows missing"


def _last_written_s(folder: Path) -> float:
    newest = folder.stat().st_mtime
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):
            newest = max(newest, file.stat().st_mtime)
    return newest
