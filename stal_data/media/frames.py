"""Frames from folders of image files, one folder a video."""

import hashlib
import re
import string
import threading
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from stal_data.errors import InputError, NotFoundError, did_you_mean
from stal_data.media import DEFAULT_PATTERN, READING, MediaInfo
from stal_data.media.images import image_file_bytes, image_file_to_send, read_image_file
from stal_data.media.timeline import FPS, MAX_SPAN_S, media_frame_at_slot, num_slots
from stal_data.names import check_video_id

_NO_FIELD = "holds something else than {video} and {frame:06d}"
_FIELD = re.compile(r"video:|frame:(0?[0-9]{1,2}d?)?")


@dataclass(frozen=True, slots=True)
class _Folder:
    """One video. numbers: the numbers of the image files that exist."""

    info: MediaInfo
    numbers: frozenset[int]
    last: int


class FrameFolders:
    """A `Media` over image files `root/pattern`."""

    def __init__(
        self,
        root: Path,
        *,
        pattern: str = DEFAULT_PATTERN,
        fps: Fraction = Fraction(FPS),
        first_frame: int = 1,
        start_s: float = 0.0,
    ) -> None:
        """pattern: path below root, `{video}/` first, with one `{frame}` or `{frame:06d}`.

        fps: rate at which the files were extracted. first_frame: number of a video's first file.
        start_s: time of that frame on the clock of the key frames.
        """
        self.root, self.pattern, self.first_frame = root, pattern, first_frame
        self._fps, self._start_s = fps, start_s
        self._files = _FilePattern(pattern)
        if not root.is_dir():
            raise NotFoundError(f"The frame folder {root} does not exist: check media.root in dataset.yaml.")
        self._folders: dict[str, _Folder] = {}
        self._lock = threading.Lock()

    @property
    def decoder(self) -> str:
        return f"pillow-{PIL.__version__}/{READING}"

    def videos(self) -> tuple[str, ...]:
        return tuple(sorted(self._disk_names))

    def left_out(self) -> Sequence[tuple[Path, str]]:
        return ()

    def info(self, video: str) -> MediaInfo:
        return self._folder(video).info

    def path(self, video: str, frame: int) -> Path:
        """Return the file behind a frame of the 25 fps time line, whether it exists or not."""
        number = self.first_frame + media_frame_at_slot(frame - 1, self._fps)
        return self._file(video, number)

    def missing(self, video: str, frames: Sequence[int]) -> list[Path]:
        folder = self._folder(video)
        wanted = {self.first_frame + media_frame_at_slot(frame - 1, self._fps) for frame in frames}
        return [self._file(video, number) for number in sorted(wanted - folder.numbers)]

    def read(self, video: str, frames: Sequence[int]) -> NDArray[np.uint8]:
        if not frames:
            raise InputError(f"No frames of video '{video}' were asked for, but a clip has at least one.")
        info = self.info(video)
        clip_THW3 = np.empty((len(frames), info.height, info.width, 3), dtype=np.uint8)
        first_use: dict[Path, int] = {}
        for index, frame in enumerate(frames):
            path = self._existing(video, frame)
            if path in first_use:
                clip_THW3[index] = clip_THW3[first_use[path]]
                continue
            first_use[path] = index
            image_HW3 = read_image_file(path)
            if image_HW3.shape != clip_THW3.shape[1:]:
                raise InputError(
                    f"{path} is {image_HW3.shape[1]}x{image_HW3.shape[0]} pixels, but video '{video}' is "
                    f"{info.width}x{info.height}: extract all frames of a video at one size."
                )
            clip_THW3[index] = image_HW3
        return clip_THW3

    def encoded(self, video: str, frame: int) -> bytes:
        return image_file_to_send(self._existing(video, frame))

    def digest(self, video: str, frames: Sequence[int]) -> int:
        files: dict[Path, bytes] = {}
        whole = hashlib.blake2b(digest_size=8)
        for frame in frames:
            path = self._existing(video, frame)
            if path not in files:
                files[path] = hashlib.blake2b(image_file_bytes(path), digest_size=16).digest()
            whole.update(files[path])
        return int.from_bytes(whole.digest(), "little")

    def _file(self, video: str, number: int) -> Path:
        return self.root / self.pattern.format(video=self._disk_name(video), frame=number)

    @cached_property
    def _disk_names(self) -> dict[str, str]:
        """How each video's folder is spelled: some systems write names in Unicode's decomposed form."""
        names: dict[str, str] = {}
        for name in (entry.name for entry in self.root.iterdir() if entry.is_dir() and entry.name[0] != "."):
            video = unicodedata.normalize("NFC", name)
            if video in names:
                raise InputError(
                    f"{self.root} has two folders that would both be video '{video}', as {names[video]!a} and {name!a} "
                    "look the same: rename one."
                )
            names[video] = name
        return names

    def _disk_name(self, video: str) -> str:
        return video if video.isascii() else self._disk_names.get(video, video)

    def _existing(self, video: str, frame: int) -> Path:
        path = self.path(video, frame)
        folder = self._folder(video)
        if frame < 1 or not path.is_file():
            raise InputError(
                f"Frame {frame} of video '{video}' is missing: {path} does not exist (the folder holds "
                f"{len(folder.numbers)} frames, the last is number {folder.last}). Extract the video again, or exclude "
                "the key frame; `stal-cli dataset validate` lists all missing frames."
            )
        return path

    def _folder(self, video: str) -> _Folder:
        with self._lock:
            known = self._folders.get(video)
        if known is None:
            known = self._scan(check_video_id("The video id", video))
            with self._lock:
                self._folders[video] = known
        return known

    def _scan(self, video: str) -> _Folder:
        directory = self._file(video, self.first_frame).parent
        if not directory.is_dir():
            raise NotFoundError(
                f"Video '{video}' has no frames: the folder {directory} does not exist. "
                f"{did_you_mean(video, self.videos())}"
            )
        regex = self._files.regex(self._disk_name(video))
        numbers = frozenset(int(m[1]) for entry in directory.iterdir() if (m := regex.fullmatch(entry.name)))
        if not numbers:
            raise InputError(
                f"The folder {directory} holds no file like "
                f"{self.pattern.format(video=video, frame=self.first_frame)}: check media.pattern in dataset.yaml."
            )
        if min(numbers) < self.first_frame:
            raise InputError(
                f"The files of {directory} start at number {min(numbers)}, but media.first_frame is "
                f"{self.first_frame}: set media.first_frame in dataset.yaml to the number of a video's first frame."
            )
        count = max(numbers) - self.first_frame + 1
        if count > MAX_SPAN_S * self._fps:
            raise InputError(
                f"The files of {directory} are numbered up to {max(numbers)}, which is more than a week of video: "
                "rename or remove what is no frame."
            )
        duration = count / self._fps
        height, width = read_image_file(self._file(video, min(numbers))).shape[:2]
        info = MediaInfo(
            width=width,
            height=height,
            rate=self._fps,
            num_frames=num_slots(duration),
            start_s=self._start_s,
            duration_s=float(duration),
        )
        return _Folder(info, numbers, max(numbers))


class _FilePattern:
    """The file part of a pattern, to find the numbers of the files that exist."""

    def __init__(self, pattern: str) -> None:
        problem = _pattern_problem(pattern)
        if problem:
            raise InputError(
                f"media.pattern is '{pattern}', but {problem}: write something like '{DEFAULT_PATTERN}' in "
                "dataset.yaml."
            )
        self._parts = list(string.Formatter().parse(pattern.rsplit("/", 1)[1]))

    def regex(self, video: str) -> re.Pattern[str]:
        """Return what the file names of a video match; group 1 is the number."""
        expression = ""
        for literal, field, _, _ in self._parts:
            expression += re.escape(literal)
            if field is not None:
                expression += r"(\d+)" if field == "frame" else re.escape(video)
        return re.compile(expression)


def _pattern_problem(pattern: str) -> str | None:
    if not pattern.startswith("{video}/") or ".." in pattern:
        return "must start with '{video}/' (a folder a video)"
    try:
        parts = list(string.Formatter().parse(pattern))
        in_name = [field for _, field, _, _ in string.Formatter().parse(pattern.rsplit("/", 1)[1])]
    except ValueError:
        return _NO_FIELD
    for _, field, width, conversion in parts:
        # Python would go on into attributes, and make room for any width.
        if field is not None and (conversion or not _FIELD.fullmatch(f"{field}:{width}")):
            return _NO_FIELD
    return None if in_name.count("frame") == 1 else "needs exactly one {frame:06d} in the file name"
