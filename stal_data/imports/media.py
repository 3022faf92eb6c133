"""The media of imported annotations: which file a name means, its size and rate, and the section of dataset.yaml."""

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from fractions import Fraction
from pathlib import Path, PurePosixPath

from stal_data.annotations import read_exclusions
from stal_data.errors import InputError, NotFoundError, did_you_mean
from stal_data.formats import FORMATS
from stal_data.media import DEFAULT_PATTERN, Media, MediaInfo
from stal_data.media.frames import FrameFolders
from stal_data.media.timeline import FPS
from stal_data.media.video import VideoFiles
from stal_data.media.video_folder import EXTENSIONS, scan_folder, video_id_of
from stal_data.names import check_video_id
from stal_data.own_videos import stored_path

_KINETICS = re.compile(r"(.+)_(\d{6})_(\d{6})")
"""A clip of a longer video, as Kinetics names it: id, first and last second."""


class ImportedMedia:
    """Videos in a folder and those below it, or frame folders; or no media yet."""

    def __init__(
        self,
        *,
        videos: Path | None = None,
        frames: Path | None = None,
        pattern: str | None = None,
        fps: Fraction | None = None,
        first_frame: int = 1,
        starts_ms: Mapping[str, int] | None = None,
    ) -> None:
        """pattern, fps, first_frame: of frame folders. starts_ms: when a video begins on the clock of the files."""
        if videos is not None and frames is not None:
            raise InputError("Both --videos and --frames are given, but the media are one of them.")
        self._frames, self._pattern, self._fps = frames, pattern or DEFAULT_PATTERN, fps or Fraction(FPS)
        self._first_frame = first_frame
        self._starts_ms = starts_ms or {}
        self._files: dict[str, list[Path]] = defaultdict(list)
        self._ids: Collection[str] | None = None
        self._media: Media | None = None
        if videos is not None:
            for folder in (videos, *sorted(path for path in videos.rglob("*") if path.is_dir())):
                for path in scan_folder(folder).videos:
                    self._files[video_id_of(path)].append(path)
            self._ids = self._files
            self._media = VideoFiles({video: paths[0] for video, paths in self._files.items()})
        elif frames is not None:
            self._media = FrameFolders(frames, pattern=self._pattern, fps=self._fps, first_frame=first_frame)
            self._ids = self._media.videos()
        self._clips: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for video in self._ids or ():
            if match := _KINETICS.fullmatch(video):
                self._clips[match[1]].append((1000 * int(match[2]), 1000 * int(match[3]), video))

    @property
    def missing(self) -> bool:
        """Whether dataset.yaml names a folder to which the videos have yet to come."""
        return self._media is None

    def info(self, video: str) -> MediaInfo | None:
        """Return what the media say of a video, None without media."""
        if self._media is None:
            return None
        self._check(video)
        return self._media.info(video)

    def placed(self, video: str, time_ms: int) -> tuple[str, int]:
        """Return the id of the media and the time in them: a clip of the video may be there in its place."""
        if video not in self._starts_ms and self._ids is not None and video not in self._ids:
            for start, end, clip in self._clips[video]:
                if start <= time_ms <= end:
                    return clip, time_ms - start
        if self._ids is not None:
            self._check(video)
        return video, time_ms - self._starts_ms.get(video, 0)

    def section(self, videos: Collection[str], output: Path) -> dict[str, object]:
        """Return `media` of dataset.yaml."""
        if self._frames is not None:
            fps = int(self._fps) if self._fps.denominator == 1 else str(self._fps)
            files = {"root": stored_path(self._frames, output), "pattern": self._pattern}
            return {"kind": "frames", **files, "fps": fps, "first_frame": self._first_frame}
        if self._media is None:
            return {"kind": "video", "root": "videos"}
        return {"kind": "video", "files": {video: stored_path(self._files[video][0], output) for video in videos}}

    def _check(self, video: str) -> None:
        assert self._ids is not None
        if video not in self._ids:
            raise NotFoundError(
                f"The annotated video '{video}' is not among the media. {did_you_mean(video, self._ids)}"
            )
        if len(self._files[video]) > 1:
            raise InputError(
                f"{self._files[video][0]} and {self._files[video][1]} are both video '{video}': rename one."
            )


def id_of(name: str) -> str:
    """Return the id of a video that a file names with folders and an extension."""
    path = PurePosixPath(name.replace("\\", "/"))
    return check_video_id("The video", path.stem if path.suffix.lower() in EXTENSIONS else path.name)


def read_starts(path: Path) -> dict[str, int]:
    """Read lines of video and second, and return milliseconds by video."""
    keys = read_exclusions(path, FORMATS["ava"])
    starts = {key.video: key.time_ms for key in keys}
    if len(starts) < len(keys):
        raise InputError(f"{path} gives a video two starts: keep one line of each video.")
    return starts
