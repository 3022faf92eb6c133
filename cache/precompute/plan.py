"""What will be computed: the frames of every clip, checked before any work is done."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, Protocol

import numpy as np

from cache.feature_store import RowIndex
from cache.spec import ClipSpec
from stal_data.amounts import amount
from stal_data.clips import clip_frames, resolve_window
from stal_data.dataset import Split
from stal_data.errors import InputError, StalError
from stal_data.keyframes import AnnotatedKeyFrame
from stal_data.media import Media

LISTED = 10  # problems that an error message lists before it only counts

Phase = Literal["check", "extract"]


class Progress(Protocol):
    """Told how many of all key frames a phase has finished; may come from several threads, one call at a time."""

    def __call__(self, phase: Phase, done: int, total: int) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """frames: numbers on the 25 fps time line, from 1, in the order the backbones see them."""

    video: str
    frames: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """clips: by row of the index, those that may be computed."""

    index: RowIndex
    clips: Mapping[int, Clip]


@dataclass(frozen=True, kw_only=True)
class _Row:
    window: tuple[int, int]
    clip: Clip
    source: int


def make_plan(
    split: Split,
    clip_spec: ClipSpec,
    *,
    rows: range,
    known: RowIndex | None,
    threads: int,
    report: Callable[[int], None],
) -> Plan:
    """Find the frames of key frames, read them all once for their digest, and decode two of each video.

    rows: which key frames. known: where a set already says what all rows are made from; else `rows` is all of them.
    report: told the number of key frames checked, each time a video is finished.
    A missing frame or a video that does not decode is an error, and it lists what else is wrong.
    """
    if not split.key_frames:
        raise InputError(
            f"Split '{split.name}' of '{split.dataset}' has no key frames; check its annotations and exclusions."
        )
    wanted = split.key_frames[rows.start : rows.stop]
    videos = [list(items) for _, items in groupby(wanted, key=lambda item: item.key.video)]
    found: list[_Row] = []
    problems: list[str] = []
    checked = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="check") as pool:
        for items, result in zip(
            videos, pool.map(lambda v: _check_video(v, split.media, clip_spec), videos), strict=True
        ):
            for entry in result:
                if isinstance(entry, StalError):
                    problems.append(str(entry))
                else:
                    found.append(entry)
            checked += len(items)
            report(checked)
    if problems:
        raise InputError(_summary(split, problems))
    total = len(split.key_frames)
    windows_K2 = np.zeros((total, 2), np.int64) if known is None else known.windows_K2.copy()
    sources_K = np.zeros(total, np.uint64) if known is None else known.sources_K.copy()
    windows_K2[rows.start : rows.stop] = np.array([row.window for row in found], np.int64).reshape(-1, 2)
    sources_K[rows.start : rows.stop] = [row.source for row in found]
    index = RowIndex(
        key_frames=tuple(item.key for item in split.key_frames), windows_K2=windows_K2, sources_K=sources_K
    )
    return Plan(index=index, clips={number: row.clip for number, row in zip(rows, found, strict=True)})


def _check_video(items: list[AnnotatedKeyFrame], media: Media, clip_spec: ClipSpec) -> list[_Row | StalError]:
    """Return a row for each key frame of a video, or what is wrong with it."""
    video = items[0].key.video
    try:
        media.info(video)
    except StalError as error:
        return [error]
    results = list(_rows(items, media, clip_spec))
    good = [row for row in results if isinstance(row, _Row)]
    if good:
        try:
            media.read(video, [good[0].clip.frames[0], good[-1].clip.frames[-1]])
        except StalError as error:
            return [error]
    return results


def _rows(items: list[AnnotatedKeyFrame], media: Media, clip_spec: ClipSpec) -> Iterator[_Row | StalError]:
    for item in items:
        video = item.key.video
        try:
            window = resolve_window(item, media.info(video))
            frames = tuple(clip_frames(window, clip_spec.num_frames, clip_spec.stride))
            yield _Row(window=window, clip=Clip(video=video, frames=frames), source=media.digest(video, frames))
        except StalError as error:
            yield error


def _summary(split: Split, problems: list[str]) -> str:
    distinct = list(dict.fromkeys(problems))
    lines = "".join(f"\n  {problem}" for problem in distinct[:LISTED])
    rest = f"\n  and {len(distinct) - LISTED} more" if len(distinct) > LISTED else ""
    return (
        f"Nothing was computed: {amount(len(distinct), 'problem')} with the media of split '{split.name}' of "
        f"'{split.dataset}' ({amount(len(split.key_frames), 'key frame')}):{lines}{rest}"
    )
