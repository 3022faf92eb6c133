"""Checks of key frames against the media: does every clip find its frames?"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from stal_data.amounts import amount
from stal_data.clips import clip_frames, key_image_frame, resolve_window
from stal_data.errors import InputError, StalError
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.media import Media, MediaInfo
from stal_data.media.timeline import FPS, frame_at
from stal_data.validation.findings import Finding, Severity

MAX_BROKEN = 100
"""Frames of one video that are named; in a video file each costs decoding from a key picture on."""


class MediaChecker:
    """Checks the key frames of one split.

    lines: the line of each key frame in the file at path. decode: also decode every frame of every clip.
    """

    def __init__(self, split: str, path: Path, lines: Mapping[KeyFrame, int], media: Media, *, decode: bool) -> None:
        self._split, self._path, self._lines, self._media, self._decode = split, path, lines, media, decode

    def check(self, key_frames: Iterable[AnnotatedKeyFrame]) -> Iterator[Finding]:
        by_video: dict[str, list[AnnotatedKeyFrame]] = defaultdict(list)
        for key_frame in key_frames:
            by_video[key_frame.key.video].append(key_frame)
        for video, items in by_video.items():
            yield from self._check_video(video, items)

    def _check_video(self, video: str, key_frames: Sequence[AnnotatedKeyFrame]) -> Iterator[Finding]:
        try:
            info = self._media.info(video)
        except StalError as error:
            yield self._finding(
                "media", key_frames[0].key, f"{error} (needed by {amount(len(key_frames), 'key frame')})"
            )
            return
        for note in info.notes:
            yield self._finding("clock", key_frames[0].key, f"video '{video}': {note}.", severity="warning")
        wanted: dict[int, KeyFrame] = {}  # frame -> the first key frame that needs it
        for key_frame in key_frames:
            outside = list(self._outside(key_frame, info))
            yield from outside
            if not outside:
                frames = [*clip_frames(resolve_window(key_frame, info)), key_image_frame(key_frame, info)]
                for frame in frames:
                    wanted.setdefault(frame, key_frame.key)
        yield from self._missing(video, wanted)

    def _outside(self, key_frame: AnnotatedKeyFrame, info: MediaInfo) -> Iterator[Finding]:
        try:
            frame_at(key_frame.key.time_ms, key_frame.key.video, info)
        except InputError as error:
            yield self._finding("time", key_frame.key, str(error))
        if key_frame.window is not None:
            start, end = key_frame.window
            if start < 1 or end - 1 > info.num_frames:
                yield self._finding(
                    "window",
                    key_frame.key,
                    f"the window {start} to {end} (exclusive) leaves the media of video '{key_frame.key.video}', "
                    f"frames 1 to {info.num_frames} at {FPS} a second: correct frame_start and frame_end, or exclude "
                    "the key frame.",
                )

    def _missing(self, video: str, wanted: Mapping[int, KeyFrame]) -> Iterator[Finding]:
        missing = self._media.missing(video, sorted(wanted)) if wanted else []
        if missing:
            first_key = next(key for frame, key in sorted(wanted.items()) if self._media.missing(video, [frame]))
            names = ", ".join(path.name for path in missing[:5]) + (", ..." if len(missing) > 5 else "")
            yield Finding(
                split=self._split,
                severity="error",
                rule="frames",
                path=missing[0].parent,
                message=f"{amount(len(missing), 'frame')} missing that clips need: {names} (first needed by key frame "
                f"{first_key} of {self._path}"
                + (f":{self._lines[first_key]}" if first_key in self._lines else "")
                + "). Extract the video again, or exclude the key frames.",
            )
        elif self._decode:
            yield from self._undecodable(video, wanted)

    def _undecodable(self, video: str, wanted: Mapping[int, KeyFrame]) -> Iterator[Finding]:
        broken = self._broken(video, sorted(wanted))
        for frame, error in islice(broken, MAX_BROKEN):
            yield self._finding("decode", wanted[frame], str(error))
        if next(broken, None) is not None:
            text = f"More than {MAX_BROKEN} frames of video '{video}' do not decode; the rest was not looked at."
            yield self._finding("decode", wanted[min(wanted)], text)

    def _broken(self, video: str, frames: Sequence[int]) -> Iterator[tuple[int, StalError]]:
        """Yield each frame that does not decode; only where there is one they are read one by one, which is slower."""
        for begin in range(0, len(frames), 32):
            some = frames[begin : begin + 32]
            try:
                self._media.read(video, some)
            except StalError as error:
                alone = False
                for frame in some:
                    try:
                        self._media.read(video, [frame])
                    except StalError as its_own:
                        alone = True
                        yield frame, its_own
                if not alone:  # what a decoder makes of a damaged file may depend on where it starts
                    yield some[0], error

    def _finding(self, rule: str, key: KeyFrame, message: str, *, severity: Severity = "error") -> Finding:
        return Finding(
            split=self._split,
            severity=severity,
            rule=rule,
            path=self._path,
            line=self._lines.get(key),
            message=message,
        )
