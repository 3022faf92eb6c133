"""The backbones on one device: clips in, stored arrays out."""

import copy
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cache.backbones.architectures import config_from_json
from cache.backbones.load import LoadedBackbone
from cache.pooling import pool_slowfast, pool_vit
from cache.precompute.clips import Size
from cache.spec import BackboneSpec, View
from stal_data.errors import InputError


class Extractor:
    """Copies of the backbones on a device."""

    def __init__(self, slowfast: LoadedBackbone | None, vit: LoadedBackbone | None, device: torch.device) -> None:
        self.device = device
        self._slowfast = None if slowfast is None else (_on(slowfast.model, device), _size(slowfast.spec))
        self._vit = None if vit is None else (_on(vit.model, device), _size(vit.spec))

    @torch.inference_mode()
    def __call__(self, clips: Mapping[Size, Tensor], view: View) -> dict[str, NDArray[np.float32]]:
        """Return the stored arrays of a batch in float32: `slow`, `fast`, `vit`, `vit_moments` as far as present.

        clips: [B,3,T,H,W] for each backbone's input size, as they are; `hflip` mirrors them here.
        """
        flip = view == "hflip"
        inputs = {}
        for size, clip_BCTHW in clips.items():
            moved = clip_BCTHW.to(self.device, non_blocking=True)
            inputs[size] = moved.flip(-1) if flip else moved
        arrays: dict[str, Tensor] = {}
        if self._slowfast is not None:
            model, size = self._slowfast
            arrays |= pool_slowfast(*model(inputs[size]))
        if self._vit is not None:
            model, size = self._vit
            arrays |= pool_vit(model(inputs[size]))
        return {name: values.cpu().numpy() for name, values in arrays.items()}


def input_sizes(*specs: BackboneSpec | None) -> set[Size]:
    return {_size(spec) for spec in specs if spec is not None}


def row_shapes(slowfast: BackboneSpec | None, vit: BackboneSpec | None, num_frames: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of one row of each array that these backbones fill.

    num_frames: frames of a clip; a backbone made for another number is an error.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for spec in (slowfast, vit):
        if spec is None:
            continue
        config = config_from_json(spec.kind, json.dumps(spec.config), f"The {spec.kind} spec")
        if config.num_frames != num_frames:
            raise InputError(
                f"The {spec.kind} backbone takes clips of {config.num_frames} frames; precompute makes {num_frames}."
            )
        shapes |= config.map_shapes
    if "vit" in shapes:
        shapes["vit_moments"] = (2, shapes["vit"][0])
    return shapes


def resolve_devices(names: str | None) -> list[torch.device]:
    """Return the devices of `auto` (every visible CUDA device, else the CPU) or of a list such as `cuda:0,cuda:1`."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if names in (None, "auto"):
        return [torch.device("cuda", index) for index in range(available)] or [torch.device("cpu")]
    devices = []
    for name in str(names).split(","):
        try:
            device = torch.device(name.strip())
        except RuntimeError:
            raise InputError(f"--device is '{name}'; it must be auto, cpu, cuda:N or a list of them.") from None
        if device.type == "cuda" and (device.index or 0) >= available:
            raise InputError(f"--device names {name}, but {available} CUDA devices are visible; use auto or cpu.")
        devices.append(device)
    if len(set(devices)) < len(devices):
        raise InputError(f"--device is '{names}'; each device may be named once.")
    return devices


def compute_pool(device: torch.device, num_batches: int) -> tuple[ThreadPoolExecutor, int]:
    """Return the threads that run models on a device, and their number.

    num_batches: batches of the whole set, also those that are done, so that a resumed run computes the same bits.
    A GPU needs one. On the CPU each core takes its own batch: the threads of one operation would wait for each other
    whenever the decoder takes a core.
    """
    if device.type != "cpu":
        return ThreadPoolExecutor(1, thread_name_prefix="compute"), 1
    cores = torch.get_num_threads()
    workers = max(1, min(cores, num_batches))
    # Holds for the thread that calls it.
    pool = ThreadPoolExecutor(workers, "compute", initializer=torch.set_num_threads, initargs=(cores // workers,))
    return pool, workers


def _on(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model on the device; the caller's own stays where it is."""
    return model if device.type == "cpu" else copy.deepcopy(model).to(device)


def _size(spec: BackboneSpec) -> Size:
    return spec.height, spec.width
