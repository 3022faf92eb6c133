"""The backbones on one device: frames in, stored arrays out.

B clips, T frames, H, W rows and columns, 3 colours.
"""

import copy
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cache.backbones.architectures import config_of
from cache.backbones.load import LoadedBackbone
from cache.exact_float32 import exact_float32
from cache.precompute.clips import Size
from cache.spec import Autocast, BackboneSpec, FeatureDtype, FeatureSpec, View
from cache.statistics import SCALE, quantise, statistic_of
from stal_data.errors import InputError
from stal_data.preprocess import MEAN, STD

AUTOCAST_DTYPES: dict[Autocast, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}

_NO_MEMORY = (
    "can't allocate memory",  # the CPU's allocator
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # its workspace did not fit
    "CUDNN_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",  # cuDNN tried all, and none found room for its workspace
)
"""What a plain RuntimeError says when memory is short."""


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Some clips of a batch, each array by view and name.

    stored: in the stored types, in host memory. computed: the same in float32, on the device.
    finite: whether all values of `stored` are; in host memory.
    """

    stored: Mapping[View, Mapping[str, Tensor]]
    computed: Mapping[View, Mapping[str, Tensor]]
    finite: Tensor


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What a batch gives, perhaps still being computed. done: on a GPU, when it is there."""

    pieces: Sequence[_Piece]
    done: torch.cuda.Event | None

    def finite(self) -> bool:
        """Wait for the batch and return whether every value is finite in the stored type."""
        if self.done is not None:
            self.done.synchronize()
        return all(bool(piece.finite) for piece in self.pieces)

    def arrays(self) -> dict[View, dict[str, NDArray[Any]]]:
        """Wait for the batch and return its arrays, [B, ...]: in the stored types if `finite`, else in float32."""
        parts = [piece.stored for piece in self.pieces] if self.finite() else [piece.computed for piece in self.pieces]
        return {
            view: {
                name: np.concatenate([part[view][name].cpu().numpy() for part in parts])
                if len(parts) > 1
                else values.cpu().numpy()
                for name, values in arrays.items()
            }
            for view, arrays in parts[0].items()
        }


class Extractor:
    """The backbones on a device, to which they are moved. Threads may share it."""

    def __init__(
        self,
        backbones: Sequence[LoadedBackbone],
        device: torch.device,
        *,
        dtype: FeatureDtype = "float32",
        autocast: Autocast = "none",
        compiled: bool = False,
        batch_size: int = 8,
        note: Callable[[str], None] | None = None,
    ) -> None:
        """dtype: of the arrays, but for those that are always float32.

        batch_size: clips computed at once; becomes less where they do not fit. note: told when that happens.
        """
        exact_float32()
        self.device, self.compiled = device, compiled
        self._autocast = AUTOCAST_DTYPES.get(autocast)
        arrays = [array for backbone in backbones for array in backbone.spec.arrays]
        self._dtypes = {name: stored for array in arrays for name, stored in array.stored(dtype).items()}
        self._backbones = [(_on(backbone.model, device, compiled), backbone.spec) for backbone in backbones]
        self.batch_size, self._note, self._lock = batch_size, note, threading.Lock()
        # On the device, because CUDA multiplies by the reciprocal of a number of the host, which rounds differently.
        self._scale, self._mean, self._std = (torch.tensor(float(v), device=device) for v in (255, MEAN, STD))

    def launch(self, clips: Mapping[Size, Tensor], views: Sequence[View]) -> Outputs:
        """Start the computation of a batch; on a GPU it goes on after the return.

        clips: [B,T,H,W,3] uint8 for each backbone's input size. The arrays are those of the backbones' specs.
        A batch that does not fit the memory is computed in smaller pieces, and so are all later ones.
        """
        count = len(next(iter(clips.values())))
        pieces: list[_Piece] = []
        start = 0
        while start < count:
            size = min(self.batch_size, count - start)
            part = {name: frames[start : start + size] for name, frames in clips.items()}
            try:
                pieces.append(self._compute(part, size, views))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._shrink(size, error)
            else:
                start += size
        done = None
        if self.device.type == "cuda":
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(torch.cuda.current_stream(self.device))
        return Outputs(pieces=pieces, done=done)

    def _shrink(self, size: int, error: Exception) -> None:
        if size == 1:
            raise InputError(
                f"One clip does not fit the memory of {self.device} ({_first_line(error)}); use a device with more "
                "memory, or end what else uses it."
            ) from error
        with self._lock:
            smaller = min(self.batch_size, size // 2)
            if smaller == self.batch_size:
                return
            self.batch_size = smaller
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self._note:
            self._note(f"A batch of {size} clips does not fit the memory of {self.device}; going on with {smaller}.")

    @torch.inference_mode()
    def _compute(self, clips: Mapping[Size, Tensor], count: int, views: Sequence[View]) -> _Piece:
        # Compiled code is for one shape; a shorter batch would be compiled anew.
        padding = max(0, self.batch_size - count) if self.compiled else 0
        inputs = {size: self._normalise(frames, padding) for size, frames in clips.items()}
        computed: dict[View, dict[str, Tensor]] = {}
        stored: dict[View, dict[str, Tensor]] = {}
        finite: list[Tensor] = []
        for view in views:
            seen = {size: clip.flip(-1) if view == "hflip" else clip for size, clip in inputs.items()}
            computed[view] = {name: values[:count] for name, values in self._arrays(seen).items()}
            stored[view] = {}
            for name, values in computed[view].items():
                kept = values.half() if self._dtypes[name] == "float16" else values
                finite.append(kept.isfinite().all())
                stored[view][name] = kept.to("cpu", non_blocking=True)
        return _Piece(stored=stored, computed=computed, finite=torch.stack(finite).all().to("cpu", non_blocking=True))

    def _arrays(self, clips: Mapping[Size, Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for model, spec in self._backbones:
            with self._precision():
                maps = model(clips[_size(spec)])
            for array in spec.arrays:
                values = statistic_of(array.statistic).compute(maps[array.map])
                if self._dtypes[array.name] == "int8":
                    values, found[array.name + SCALE] = quantise(values)
                found[array.name] = values
        return found

    def _normalise(self, frames_BTHW3: Tensor, padding: int) -> Tensor:
        """Return the clips as the backbones take them, [B,3,T,H,W], with the last one repeated `padding` times."""
        moved = frames_BTHW3.to(self.device, non_blocking=True).permute(0, 4, 1, 2, 3)
        if padding:
            moved = torch.cat([moved, moved[-1:].expand(padding, *moved.shape[1:])])
        clip = moved.to(torch.float32, memory_format=torch.contiguous_format)
        return clip.div_(self._scale).sub_(self._mean).div_(self._std)

    @contextmanager
    def _precision(self) -> Iterator[None]:
        if self._autocast is None:
            yield
            return
        with torch.autocast(self.device.type, self._autocast):
            yield


def input_sizes(spec: FeatureSpec) -> set[Size]:
    return {_size(backbone) for backbone in spec.backbones}


def row_shapes(spec: FeatureSpec) -> dict[str, tuple[int, ...]]:
    """Return the shape of one row of each array of the spec; a backbone for clips of another length is an error."""
    shapes: dict[str, tuple[int, ...]] = {}
    num_frames = spec.clip.num_frames // spec.clip.stride
    for backbone in spec.backbones:
        config = config_of(backbone)
        if config.num_frames != num_frames:
            raise InputError(
                f"The {backbone.kind} backbone takes clips of {config.num_frames} frames, but precompute makes "
                f"{num_frames}."
            )
        for array in backbone.arrays:
            shape = statistic_of(array.statistic).row_shape(config.maps[array.map])
            shapes |= {name: shape[:1] if name.endswith(SCALE) else shape for name in array.stored(spec.dtype)}
    return shapes


def is_out_of_memory(error: Exception) -> bool:
    """Whether this is how torch or one of its libraries says that memory is short."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(text in str(error) for text in _NO_MEMORY)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _on(model: nn.Module, device: torch.device, compiled: bool) -> Callable[..., Any]:
    """Return the model, moved to the device: no copy stays in host memory."""
    model.to(device)
    if not compiled:
        return model
    same = {id(tensor): tensor for tensor in itertools.chain(model.parameters(), model.buffers())}
    return _compiled(copy.deepcopy(model, same))


def _compiled(model: nn.Module) -> Callable[..., Any]:
    """Return the model compiled; of a chain of equal blocks one, which then serves for all.

    The code of 40 blocks in a row takes minutes to compile.
    """
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.ModuleList) or len({str(block) for block in blocks}) != 1:
        return torch.compile(model, dynamic=False)
    model.blocks = nn.ModuleList(torch.compile(block, dynamic=False) for block in blocks)  # type: ignore[misc]
    return model


def _size(spec: BackboneSpec) -> Size:
    return spec.height, spec.width
