"""A data set on disk: a folder with dataset.yaml, its splits and its media."""

import fnmatch
import threading
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from stal_data.amounts import amount
from stal_data.annotations import read_annotations, read_exclusions
from stal_data.dataset_spec import FILE_NAME, DatasetSpec, FramesSpec, SplitSpec, read_spec
from stal_data.errors import InputError, NotFoundError, did_you_mean
from stal_data.formats import AnnotationFormat, format_of
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.labels import LabelMap
from stal_data.media import Media
from stal_data.media.timeline import whole_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitContent:
    """What is known of one part of a data set.

    key_frames: sorted by key; excluded ones are not among them.
    annotated: whether boxes and labels are known; if not, key_frames are all whole seconds of the videos.
    """

    dataset: str
    name: str
    key_frames: tuple[AnnotatedKeyFrame, ...]
    exclusions: frozenset[KeyFrame]
    annotated: bool
    label_map: LabelMap | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Split(SplitContent):
    """One part of a data set, with its frames."""

    media: Media


class Dataset:
    """An opened data set; splits and media are read when asked for."""

    def __init__(self, spec: DatasetSpec, path: Path) -> None:
        """path: of the dataset.yaml; relative paths in the spec start at its folder."""
        self.spec, self.path, self.root = spec, path, path.parent
        self._lock = threading.Lock()
        self._media: Media | None = None

    @classmethod
    def open(cls, path: Path) -> "Dataset":
        """Open a folder with a dataset.yaml, or the file itself."""
        path = path if path.is_file() else path / FILE_NAME
        return cls(read_spec(path), path)

    @property
    def name(self) -> str:
        return self.spec.name

    @cached_property
    def label_map(self) -> LabelMap | None:
        """None for a data set without annotations."""
        return LabelMap.read(self.root / self.spec.label_map) if self.spec.label_map else None

    @property
    def annotation_format(self) -> AnnotationFormat | None:
        """None for a data set without annotations."""
        return None if self.spec.format is None else format_of(self.spec.format)

    @property
    def split_names(self) -> tuple[str, ...]:
        return tuple(self.spec.splits)

    @property
    def media(self) -> Media:
        with self._lock:
            if self._media is None:
                self._media = open_media(self.spec, self.root)
            return self._media

    def split(self, name: str) -> Split:
        """Read a split; a bad line, a missing video or a split without key frames is an error."""
        spec = self.split_spec(name)
        file = self.root / spec.exclusions if spec.exclusions else None
        exclusions = frozenset() if file is None else read_exclusions(file, self.annotation_format)
        key_frames = [item for item in self._key_frames(name, spec) if item.key not in exclusions]
        if not key_frames:
            raise InputError(
                f"Split '{name}' of {self.path} has no key frames"
                + (f" left after {amount(len(exclusions), 'exclusion')}" if exclusions else "")
                + f": check {spec.annotations or 'splits.' + name + '.videos'}."
            )
        return Split(
            dataset=self.name,
            name=name,
            key_frames=tuple(key_frames),
            exclusions=exclusions,
            annotated=spec.annotations is not None,
            label_map=self.label_map,
            media=self.media,
        )

    def split_spec(self, name: str) -> SplitSpec:
        if name not in self.spec.splits:
            raise NotFoundError(f"{self.path} has no split '{name}'. {did_you_mean(name, self.spec.splits)}")
        return self.spec.splits[name]

    def split_videos(self, name: str) -> tuple[str, ...]:
        """Return the videos that the patterns of a split without annotations name, sorted."""
        patterns = self.split_spec(name).videos or ()
        return _matching([patterns] if isinstance(patterns, str) else patterns, self.media.videos(), self.path)

    def _key_frames(self, name: str, spec: SplitSpec) -> Iterable[AnnotatedKeyFrame]:
        if spec.annotations is not None:
            assert self.annotation_format is not None
            assert self.label_map is not None
            return read_annotations(
                self.root / spec.annotations,
                self.annotation_format,
                self.label_map,
                drop_unknown_labels=self.spec.unknown_labels == "drop",
                first_row_lost=spec.first_row == "lost",
            )
        return (
            _without_people(KeyFrame(video, 1000 * second))
            for video in self.split_videos(name)
            for second in whole_seconds(self.media.info(video))
        )


def open_media(spec: DatasetSpec, root: Path) -> Media:
    """Open the media of a data set; the decoders are imported only here."""
    media = spec.media
    if isinstance(media, FramesSpec):
        from stal_data.media.frames import FrameFolders

        return FrameFolders(
            root / media.root,
            pattern=media.pattern,
            fps=media.fps,
            first_frame=media.first_frame,
            start_s=media.start_s,
        )
    from stal_data.media.video import VideoFiles

    if media.files is not None:
        return VideoFiles({video: root / path for video, path in media.files.items()}, start_s=media.start_s)
    assert media.root is not None
    return VideoFiles.in_folder(root / media.root, start_s=media.start_s)


def _without_people(key: KeyFrame) -> AnnotatedKeyFrame:
    return AnnotatedKeyFrame(key=key, window=None, boxes_N4=np.zeros((0, 4), np.float32), labels=(), persons=())


def _matching(patterns: Iterable[str], videos: tuple[str, ...], path: Path) -> tuple[str, ...]:
    chosen: set[str] = set()
    for pattern in (unicodedata.normalize("NFC", text) for text in patterns):  # as video ids are
        found = [pattern] if pattern in videos else fnmatch.filter(videos, pattern)
        if not found:
            raise NotFoundError(f"{path}: no video is named like '{pattern}'. {did_you_mean(pattern, videos)}")
        chosen.update(found)
    return tuple(sorted(chosen))
