"""Cached key frames of a split, one by one or as batches. Needs no torch but for `collate` and `Batch.to`.

B key frames with N people of all of them together, C classes. Boxes are x1,y1,x2,y2 in [0,1] of the frame.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import index as whole_number
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from cache.feature_store import FeatureSet
from cache.split_store import PublishedSplit
from cache.statistics import SCALE, dequantised
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame, ScoredKeyFrame

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array")
Other = TypeVar("Other")


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """A key frame with its n people; n may be 0.

    features: by array name (`slow`, `fast`, `vit`, `vit_moments`, `timm`, ...), as stored, float16 or float32, and
        int8 as float32: time means [channels, rows, columns], all time steps [channels, T, rows, columns], moments
        [2, channels].
    boxes_N4: float32 [n, 4]. targets_NC: float32 [n, C], 1 where the person performs the class, in the order of the
        label map; None where the split has no label map.
    """

    key_frame: KeyFrame
    features: Mapping[str, NDArray[Any]]
    boxes_N4: NDArray[np.float32]
    targets_NC: NDArray[np.float32] | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch(Generic[Array]):
    """B key frames: NumPy arrays from `Features.batch`, tensors from `collate`.

    A head of STAL reads `features`, `boxes_N4` and `clip_of_N` and returns logits [N, C]; your own may do the same.

    features: by array name, those of `Sample` with B in front; tensors are float32.
    boxes_N4: float32 [N, 4], people of one key frame next to each other, key frames in order.
    clip_of_N: int64 [N], each person's key frame as its position in the batch.
    targets_NC: float32 [N, C], or None, as in `Sample`.
    """

    key_frames: tuple[KeyFrame, ...]
    features: Mapping[str, Array]
    boxes_N4: Array
    clip_of_N: Array
    targets_NC: Array | None

    def to(self: "Batch[torch.Tensor]", device: "torch.device | str") -> "Batch[torch.Tensor]":
        """Return the batch of tensors on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def scored(self, scores_NC: "NDArray[np.floating[Any]] | torch.Tensor") -> list[ScoredKeyFrame]:
        """Return each key frame with its boxes and scores, for `Predictions`. scores_NC: [N, C] in [0,1].

        Raises StalError where their number is not that of the boxes.
        """
        scores, boxes, clips = (_on_cpu(values) for values in (scores_NC, self.boxes_N4, self.clip_of_N))
        if scores.ndim != 2 or len(scores) != len(boxes):
            raise InputError(f"scores_NC has shape {list(scores.shape)}, but must be [{len(boxes)}, classes].")
        return [
            ScoredKeyFrame(key=key, boxes_N4=boxes[clips == place], scores_NC=scores[clips == place].astype(np.float32))
            for place, key in enumerate(self.key_frames)
        ]

    def _each(self, change: Callable[[Array], Other]) -> "Batch[Other]":
        return Batch(
            key_frames=self.key_frames,
            features={name: change(values) for name, values in self.features.items()},
            boxes_N4=change(self.boxes_N4),
            clip_of_N=change(self.clip_of_N),
            targets_NC=None if self.targets_NC is None else change(self.targets_NC),
        )


class Features:
    """The key frames of a split, in order: a map-style data set for `torch.utils.data.DataLoader`; see `collate`.

    Threads may share it. Worker processes may not be forked: give the loader multiprocessing_context="spawn".
    """

    def __init__(self, split: PublishedSplit, feature_set: FeatureSet) -> None:
        """`Store.features` makes one."""
        self.feature_set = feature_set
        self.label_map = split.label_map
        self.key_frames = tuple(item.key for item in split.key_frames)
        self._rows = feature_set.rows_of(self.key_frames)
        self._boxes = [item.boxes_N4 for item in split.key_frames]
        labels = self.label_map
        self._targets = None if labels is None else [labels.targets(item.labels) for item in split.key_frames]

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of one key frame's array, by name: {"slow": (channels, rows, columns), ...}."""
        return {name: shape for name, shape in self.feature_set.shapes.items() if not name.endswith(SCALE)}

    def __len__(self) -> int:
        return len(self.key_frames)

    def __getitem__(self, index: int) -> Sample:
        """Return one key frame. Raises IndexError behind the last, and StalError where its row is damaged."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Return several key frames, read together; a DataLoader calls this."""
        places = [range(len(self))[whole_number(index)] for index in indices]
        arrays = dequantised(self.feature_set.read([self._rows[place] for place in places]))
        return [
            Sample(
                key_frame=self.key_frames[place],
                features={name: values[row] for name, values in arrays.items()},
                boxes_N4=self._boxes[place],
                targets_NC=None if self._targets is None else self._targets[place],
            )
            for row, place in enumerate(places)
        ]

    def batch(self, indices: Sequence[int]) -> Batch[NDArray[Any]]:
        """Return several key frames as NumPy arrays. Raises as `features[index]` does."""
        return _joined(self.__getitems__(indices))


def collate(samples: Sequence[Sample]) -> Batch["torch.Tensor"]:
    """Return a batch of tensors: DataLoader(features, batch_size=8, shuffle=True, collate_fn=stal.collate)."""
    import torch

    def tensor(values: NDArray[Any]) -> torch.Tensor:
        found = torch.from_numpy(values)
        return found.float() if found.is_floating_point() else found

    return _joined(samples)._each(tensor)


def _joined(samples: Sequence[Sample]) -> Batch[NDArray[Any]]:
    if not samples:
        raise InputError("A batch of 0 key frames was asked for, but needs at least one.")
    targets = [sample.targets_NC for sample in samples if sample.targets_NC is not None]
    return Batch(
        key_frames=tuple(sample.key_frame for sample in samples),
        features={name: np.stack([sample.features[name] for sample in samples]) for name in samples[0].features},
        boxes_N4=np.concatenate([sample.boxes_N4 for sample in samples]),
        clip_of_N=np.repeat(np.arange(len(samples)), [len(sample.boxes_N4) for sample in samples]),
        targets_NC=np.concatenate(targets) if targets else None,
    )


def _on_cpu(values: Any) -> NDArray[Any]:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
