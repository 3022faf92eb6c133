"""Frames straight from video files."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from stal_data.errors import InputError, NotFoundError, did_you_mean
from stal_data.fair_lock import FairLock
from stal_data.media import READING, MediaInfo
from stal_data.media.images import picture_to_send
from stal_data.media.video_folder import by_video_id, scan_folder, video_id_of
from stal_data.media.video_index import VideoIndex, read_index
from stal_data.media.video_reader import VideoReader, rgb_pictures
from stal_data.names import check_video_id
from stal_data.user_files import open_regular

IDLE_READERS = 4
"""Videos kept open between reads. Each holds at most 256 MiB of pictures, far less for small ones."""


class VideoFiles:
    """A `Media` over video files. The clock of a video starts when a player starts it, plus start_s."""

    def __init__(self, files: Mapping[str, Path], *, start_s: float = 0.0) -> None:
        """files: video id to path. start_s: what the key frames' clock shows when a file begins to play."""
        self.files = {check_video_id("The video id", video): path for video, path in files.items()}
        self._start_s = start_s
        self._left_out: tuple[tuple[Path, str], ...] = ()
        self._lock = threading.Lock()  # guards the maps below; held only to look things up
        self._video_locks: dict[str, FairLock] = {}
        """Fair, since threads ask for pictures nearly in the order of time, in which decoding them needs no seeks."""
        self._indexes: dict[str, VideoIndex] = {}
        self._file_digests: dict[str, bytes] = {}
        self._idle: OrderedDict[str, VideoReader] = OrderedDict()

    @classmethod
    def in_folder(cls, root: Path, *, start_s: float = 0.0) -> "VideoFiles":
        """Take every video file of a folder; its id is its name without the extension."""
        if not root.is_dir():
            raise NotFoundError(f"The video folder {root} does not exist: check media.root in dataset.yaml.")
        folder = scan_folder(root)
        media = cls(by_video_id(folder.videos), start_s=start_s)
        media._left_out = folder.left_out
        return media

    @property
    def decoder(self) -> str:
        versions = {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
        return (
            f"pyav-{av.__version__}/libavcodec-{versions['libavcodec']}/libswscale-{versions['libswscale']}/{READING}"
        )

    def videos(self) -> tuple[str, ...]:
        return tuple(sorted(self.files))

    def left_out(self) -> Sequence[tuple[Path, str]]:
        return self._left_out

    def info(self, video: str) -> MediaInfo:
        return self._index(video).info

    def read(self, video: str, frames: Sequence[int]) -> NDArray[np.uint8]:
        index = self._index(video)
        positions = self._positions(video, index, frames)
        clip_THW3 = np.empty((len(frames), index.info.height, index.info.width, 3), dtype=np.uint8)
        distinct = np.unique(positions)  # ascending, so that the decoder runs forwards
        with self._reader(video, index) as reader:
            decoded = [reader.frame(int(position)) for position in distinct]
        # Here others decode meanwhile.
        for position, picture_HW3 in zip(distinct, rgb_pictures(decoded, index), strict=True):
            clip_THW3[positions == position] = picture_HW3
        return clip_THW3

    def pictures(self, video: str) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        """Yield every picture of the file, once, as HW3 RGB, with the second at which a player shows it, plus start_s.

        Seconds are those of the file, not of the 25 fps time line; they may repeat. Holds a few pictures at a time.
        """
        index = self._index(video)

        def decoded() -> Iterator[av.VideoFrame]:
            for position in range(len(index.seconds)):
                with self._reader(video, index) as reader:
                    frame = reader.frame(position)
                yield frame

        yield from zip((index.seconds + index.info.start_s).tolist(), rgb_pictures(decoded(), index), strict=True)

    def encoded(self, video: str, frame: int) -> bytes:
        return picture_to_send(self.read(video, [frame])[0])

    def missing(self, video: str, frames: Sequence[int]) -> list[Path]:
        self._positions(video, self._index(video), frames)
        return []

    def digest(self, video: str, frames: Sequence[int]) -> int:
        self._positions(video, self._index(video), frames)
        whole = hashlib.blake2b(self._file_digest(video), digest_size=8)
        whole.update(np.asarray(frames, dtype="<i8").tobytes())
        return int.from_bytes(whole.digest(), "little")

    def _positions(self, video: str, index: VideoIndex, frames: Sequence[int]) -> NDArray[np.int64]:
        wanted = np.asarray(frames, dtype=np.int64)
        if not wanted.size:
            raise InputError(f"No frames of video '{video}' were asked for, but a clip has at least one.")
        if wanted.min() < 1 or wanted.max() > index.info.num_frames:
            raise InputError(
                f"Frames {wanted.min()} to {wanted.max()} of video '{video}' were asked for, but {self.files[video]} "
                f"has frames 1 to {index.info.num_frames} (25 a second): correct or exclude the key frame."
            )
        return index.shown_at(wanted)

    def _path(self, video: str) -> Path:
        if video not in self.files:
            for path, reason in self._left_out:
                if video_id_of(path) == video:
                    raise NotFoundError(f"There is no file of video '{video}': {path} is {reason}.")
            raise NotFoundError(f"There is no file of video '{video}'. {did_you_mean(video, self.files)}")
        return self.files[video]

    def _index(self, video: str) -> VideoIndex:
        found = self._indexes.get(video)
        if found is None:
            with self._locked(video):
                found = self._indexes.get(video) or read_index(self._path(video), self._start_s)
                self._indexes[video] = found
        return found

    def _file_digest(self, video: str) -> bytes:
        with self._locked(video):
            if video not in self._file_digests:
                with open_regular(self._path(video)) as file:
                    self._file_digests[video] = hashlib.file_digest(
                        file, lambda: hashlib.blake2b(digest_size=32)
                    ).digest()
            return self._file_digests[video]

    @contextmanager
    def _locked(self, video: str) -> Iterator[None]:
        with self._lock:
            lock = self._video_locks.setdefault(video, FairLock())
        with lock:
            yield

    @contextmanager
    def _reader(self, video: str, index: VideoIndex) -> Iterator[VideoReader]:
        """Lend the video's reader to one thread; it stays open afterwards, unless others were used later."""
        with self._locked(video):
            with self._lock:
                reader = self._idle.pop(video, None)
            reader = reader or VideoReader(self._path(video), index)
            try:
                yield reader
            except BaseException:
                reader.close()
                raise
            with self._lock:
                self._idle[video] = reader
                oldest = self._idle.popitem(last=False)[1] if len(self._idle) > IDLE_READERS else None
            if oldest is not None:
                oldest.close()
