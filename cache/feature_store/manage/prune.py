"""Deleting feature sets, but none that something uses."""

import shutil
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cache.feature_store.catalog import describe_feature_set, feature_set_folders, num_bytes
from cache.feature_store.use import sole_use
from cache.files import sync, temporary_name
from cache.store import Store
from stal_data.errors import ConflictError, InputError, NotFoundError, StalError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A folder that fits what was asked for. reason: why. in_use: something holds it now, so it stays."""

    path: Path
    dataset: str
    split: str
    set_id: str
    num_bytes: int
    reason: str
    in_use: bool


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
    if store.mirror is not None:
        raise InputError(
            f"'{store.name}' is in a bucket, where nothing tells whether another machine reads a feature set; delete "
            "its prefix features/DATASET/SPLIT/ID/ there with the server's own tool when no job runs."
        )
    folders = feature_set_folders(store, dataset, split)
    known = {folder.name for folder in folders}
    for set_id in set_ids:
        if set_id not in known:
            raise NotFoundError(f"'{store.root}' has no feature set '{set_id}'. {did_you_mean(set_id, known)}")
    found = []
    for folder in folders:
        reasons = ["named"] if folder.name in set_ids else []
        if incomplete and (reason := _incompleteness(folder)):
            reasons.append(reason)
        if written_before_s is not None and _last_written_s(folder) < written_before_s:
            reasons.append("old")
        if reasons:
            found.append(_candidate(folder, folder.name, ", ".join(reasons)))
    leftovers = store.find("features", dataset, split, ".*.partial")
    return found + [_candidate(path, path.name.split(".")[1], "left by a killed process") for path in leftovers]


def delete_feature_set(candidate: Candidate) -> None:
    """Delete the folder; an error while a job, a service or precompute uses the set.

    It loses its name first, at once, so that a kill leaves no half set under that name.
    """
    with sole_use(candidate.path.with_name(candidate.set_id)):
        hidden = candidate.path
        if not hidden.name.endswith(".partial"):
            hidden = temporary_name(candidate.path)
            candidate.path.rename(hidden)
            sync(hidden.parent)
        shutil.rmtree(hidden)


def _candidate(path: Path, set_id: str, reason: str) -> Candidate:
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
        num_bytes=num_bytes(path),
        reason=reason,
        in_use=in_use,
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
