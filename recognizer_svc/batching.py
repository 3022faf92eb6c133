"""Clips as batches of a head: which ones together, read ahead, and turned into tensors."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache.feature_store import FeatureBatch
from cache.statistics import SCALE, dequantised, source_of, statistic_of
from recognizer_svc.heads.batch import FeatureShapes, HeadBatch
from recognizer_svc.neighbours import BankRows, NeighbourRows
from recognizer_svc.training.seeds import seed_of
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame

Item = TypeVar("Item")


def head_batch(
    features: FeatureBatch | Mapping[str, Tensor],
    boxes: Sequence[NDArray[np.float32]],
    shapes: FeatureShapes,
    keys: Sequence[KeyFrame],
    *,
    neighbours: Sequence[NeighbourRows] = (),
    bank: BankRows | None = None,
    convert: bool = True,
) -> HeadBatch:
    """Turn cached rows and each clip's boxes [n, 4] into a batch; clips without boxes are fine.

    features: of the clips, then of neighbouring key frames; statistics of what was stored for every time step
        are taken here. Tensors stay as they are: `feature_tensor` made them.
    keys: key frame of each row of the features, to name the one whose features are damaged.
    neighbours: of each clip, where `shapes` has neighbours.
    bank: where `shapes` has one; None = nobody is around.
    convert: copy to float32, after which the arrays of `features` may be used again. Else the batch keeps them as
        they are, and `HeadBatch.to` converts on the device, to which half as many bytes then go.
    """
    counts = torch.tensor([len(clip) for clip in boxes], dtype=torch.int64)

    def tensor(name: str, shape: tuple[int, ...]) -> Tensor:
        values = features.get(name)
        held = values if isinstance(values, Tensor) else feature_tensor(name, features, keys, convert=convert)
        assert held.shape == (len(keys), *shape)
        return held

    batch = HeadBatch(
        features={name: tensor(name, shape) for name, shape in shapes.arrays.items()},
        boxes_N4=torch.from_numpy(np.concatenate([np.empty((0, 4), np.float32), *boxes])),
        clip_of_N=torch.repeat_interleave(torch.arange(len(boxes)), counts),
    )
    if shapes.bank_channels:
        empty = np.empty((0, shapes.bank_channels), np.float32), np.empty((len(boxes), 0), np.bool_)
        bank_VC, seen_BV = map(torch.from_numpy, bank or empty)
        batch = replace(batch, bank_VC=bank_VC, bank_seen_BV=seen_BV)
    if not shapes.neighbours:
        return batch
    assert len(neighbours) == len(boxes)
    slots = 2 * shapes.neighbours
    boxes_NK4 = np.concatenate([np.empty((0, slots, 4), np.float32), *(boxes_NK4 for boxes_NK4, _ in neighbours)])
    row_NK = np.concatenate([np.empty((0, slots), np.int64), *(row_NK for _, row_NK in neighbours)])
    return replace(batch, neighbour_boxes_NK4=torch.from_numpy(boxes_NK4), neighbour_row_NK=torch.from_numpy(row_NK))


def feature_tensor(name: str, features: Mapping[str, Any], keys: Sequence[KeyFrame], *, convert: bool) -> Tensor:
    """Return an array as `head_batch` has it, after checking that it is finite."""
    source, statistic = source_of(name, features)
    stored = {item: features[item] for item in (source, source + SCALE) if item in features}
    held = torch.from_numpy(dequantised(stored)[source])
    assert source == name or held.ndim == 5
    if held.ndim == 5:  # all time steps
        held = statistic_of(statistic).compute(held)
    elif convert and len(stored) == 1:
        held = held.to(torch.float32, copy=True)
    _check_finite(name, held, keys)
    return held


def epoch_plan(
    num_clips: int, batch_clips: int, *, seed: int, epoch: int, rank: int, world_size: int
) -> list[list[int]]:
    """Return the clip indices of each of a rank's steps.

    Every rank gets the same number of steps, ceil(num_clips / batch_clips); all ranks' parts of a step together are
    the same clips whatever the number of ranks, and no clip is repeated. A rank's part may be empty.
    """
    order = np.random.default_rng(seed_of(seed, "order", epoch)).permutation(num_clips)
    steps = -(-num_clips // batch_clips)
    return [part[rank::world_size].tolist() for part in np.array_split(order, steps)]


def clip_groups(counts: Sequence[int], *, max_clips: int, max_actors: int) -> list[list[int]]:
    """Cut clips with so many actors each into consecutive groups within both limits; a bigger clip stands alone."""
    groups: list[list[int]] = []
    actors = 0
    for index, count in enumerate(counts):
        if not groups or len(groups[-1]) == max_clips or actors + count > max_actors:
            groups.append([])
            actors = 0
        groups[-1].append(index)
        actors += count
    return groups


def read_ahead(load: Callable[[Sequence[int]], Item], plan: Sequence[Sequence[int]], threads: int) -> Iterator[Item]:
    """Yield `load(part)` for each part of the plan in order, while `threads` threads load the next ones."""
    with ThreadPoolExecutor(threads, thread_name_prefix="features") as pool:
        waiting: deque[Future[Item]] = deque()
        try:
            for part in plan:
                waiting.append(pool.submit(load, part))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _check_finite(name: str, values_BX: Tensor, keys: Sequence[KeyFrame]) -> None:
    """Refuse NaN and infinity, which would silently poison every score of the batch."""
    # A sum is much cheaper than a test of each value; only a suspicious one is looked into.
    if bool(torch.isfinite(values_BX.sum(dtype=torch.float32))):
        return
    finite_B = torch.isfinite(values_BX.flatten(1)).all(dim=1)
    if not bool(finite_B.all()):
        raise InputError(
            f"The cached features '{name}' of {keys[int(finite_B.int().argmin())]} hold NaN or infinity; "
            "find the damage with 'stal-cli cache verify' and precompute again."
        )
