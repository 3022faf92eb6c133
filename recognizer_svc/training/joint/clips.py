"""Clips of key frames, decoded when a step needs them. B clips, T frames, H, W rows and columns."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.feature_store import FeatureSet
from stal_data.clips import clip_frames
from stal_data.errors import InputError, StalError
from stal_data.keyframes import KeyFrame
from stal_data.media import Media
from stal_data.preprocess import preprocess_clip

LISTED = 10  # problems that an error message lists before it only counts


@dataclass(frozen=True, kw_only=True, slots=True)
class _LiveClip:
    """frames: numbers on the 25 fps time line. source: digest of the media behind the cached features."""

    video: str
    frames: tuple[int, ...]
    source: int


class LiveClips:
    """The frames behind the rows of a feature set, as a backbone sees them; safe to use from several threads."""

    def __init__(
        self, media: Media, features: FeatureSet, keys: Iterable[KeyFrame], *, height: int, width: int
    ) -> None:
        """Check that all frames of the key frames exist. height, width: pixels of the backbone's input."""
        self._media, self._height, self._width = media, height, width
        self._num_frames = features.spec.clip.num_frames // features.spec.clip.stride
        self._clips = _plan(features, keys)
        self._verified: set[KeyFrame] = set()
        self._check_frames()

    def load(self, keys: Sequence[KeyFrame], mirrored: Sequence[bool]) -> Tensor:
        """Return the clips [B, 3, T, H, W], float32, normalised; flipped left to right where `mirrored` says so."""
        clips = np.empty((len(keys), 3, self._num_frames, self._height, self._width), np.float32)
        for position, (key, flip) in enumerate(zip(keys, mirrored, strict=True)):
            clip_3THW = self._read(key)
            clips[position] = clip_3THW[..., ::-1] if flip else clip_3THW
        return torch.from_numpy(clips)

    def _read(self, key: KeyFrame) -> NDArray[np.float32]:
        clip = self._clips[key]
        # Once a process: what the backbone sees must be what the cached features were made from.
        if key not in self._verified:
            if self._media.digest(clip.video, clip.frames) != clip.source:
                raise InputError(
                    f"The frames of {key} are not those that its cached features were made from; use the same media, "
                    "or precompute the split again."
                )
            self._verified.add(key)
        return preprocess_clip(self._media.read(clip.video, clip.frames), self._height, self._width)

    def _check_frames(self) -> None:
        by_video: dict[str, list[_LiveClip]] = defaultdict(list)
        for clip in self._clips.values():
            by_video[clip.video].append(clip)
        problems: list[str] = []
        for video, clips in by_video.items():
            try:
                frames = sorted({frame for clip in clips for frame in clip.frames})
                problems += [f"{path} does not exist" for path in self._media.missing(video, frames)]
            except StalError as error:
                problems.append(str(error))
        if problems:
            listed = "".join(f"\n  {problem}" for problem in problems[:LISTED])
            rest = f"\n  and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
            raise InputError(f"Nothing was trained: {len(problems)} problems with the frames:{listed}{rest}")


def _plan(features: FeatureSet, keys: Iterable[KeyFrame]) -> dict[KeyFrame, _LiveClip]:
    """Take each window from the feature set, so that the backbone sees the frames that the cached ones have seen."""
    sampling, index = features.spec.clip, features.index
    clips = {}
    for key in keys:
        row = features.row_of(key)
        start, end = index.windows_K2[row].tolist()
        clips[key] = _LiveClip(
            video=key.video,
            frames=tuple(clip_frames((start, end), sampling.num_frames, sampling.stride)),
            source=int(index.sources_K[row]),
        )
    return clips
