"""Tensors as safetensors files with a checksum, as seeded random numbers, and as a digest. Nothing is unpickled."""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor, nn

from cache.backbones.architectures import config_to_json
from cache.backbones.registry import BackboneConfig
from cache.files import replacing
from cache.tensor_header import read_header
from stal_data.errors import InputError, NotFoundError
from stal_data.sealed import UNSEALED, check_seal, seal_file

METADATA_KEY = "stal_backbone"
LISTED = 8  # names that an error message lists before it only counts


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """state: tensors by name, on the CPU. metadata: kind, preset, config; empty for a file from elsewhere."""

    state: dict[str, Tensor]
    metadata: Mapping[str, str]


def weights_digest(state: Mapping[str, Tensor], progress: Callable[[int, int], None] | None = None) -> str:
    """Return the sha256 (hex) over the tensors sorted by name: name, dtype, shape and bytes of each.

    progress: takes the bytes that are done, and all of them.
    """
    digest = hashlib.sha256()
    done, total = 0, sum(tensor.nbytes for tensor in state.values())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        # A header line ends before the bytes begin, and gives their number: no two states share one encoding.
        digest.update(f"{json.dumps(name)} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        done += tensor.nbytes
        if progress is not None:
            progress(done, total)
    return digest.hexdigest()


def read_weights(path: Path) -> WeightsFile:
    """Read a backbone's file whole; missing, corrupt and other kinds of files are errors that say so."""
    header, state = read_tensors(path)
    return WeightsFile(state=state, metadata=_read_metadata(path, header.get(METADATA_KEY, "{}")))


def read_tensors(path: Path) -> tuple[Mapping[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a safetensors file; all values are finite.

    The checksum of a file of ours is verified; one from elsewhere has none.
    """
    if not path.is_file():
        raise NotFoundError(f"Weights file {path} does not exist. Give a .safetensors file or 'random:SEED'.")
    try:
        with path.open("rb") as content:
            check_seal(content, str(path), "Copy it again, or make it again.")
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
    except SafetensorError as error:
        raise InputError(
            f"Weights file {path} is not a complete safetensors file ({error}). "
            "Copy it again; a pickled checkpoint (.pt, .pth) becomes one with 'stal-cli weights import'."
        ) from None
    broken = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise InputError(f"Weights file {path} holds values that are not finite in {listed(broken)}.")
    return header, state


def parse_tensors(content: bytes) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors of a safetensors file's bytes, whose checksum was verified."""
    return read_header(BytesIO(content), "the file").get("__metadata__", {}), load(content)


def _read_metadata(path: Path, text: str) -> dict[str, str]:
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    described = ("kind", "preset", "config")
    if not isinstance(values, dict) or any(not isinstance(values.get(name, ""), str) for name in described):
        raise InputError(f"Weights file {path}: its metadata '{METADATA_KEY}' is damaged; write the file again.")
    return {name: values[name] for name in described if name in values}


def save_backbone(
    path: Path,
    model: nn.Module,
    *,
    kind: str,
    preset: str,
    config: BackboneConfig,
    provenance: Mapping[str, object],
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Write the model's tensors atomically and return their digest.

    provenance: what the weights were made from, as JSON values; `load_backbone` does not interpret it.
    progress: as in `weights_digest`.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"kind": kind, "preset": preset, "config": config_to_json(config), "provenance": dict(provenance)}
    digest = weights_digest(state, progress)
    write_tensors(path, state, key=METADATA_KEY, metadata=metadata)
    return digest


def write_tensors(path: Path, state: Mapping[str, Tensor], *, key: str, metadata: Mapping[str, object]) -> None:
    """Replace the safetensors file at `path` atomically; it gets one metadata entry, JSON text under `key`.

    One entry, because the order of several in the file is not fixed. It begins with the file's checksum.
    """
    entry = f'{{"seal": "{UNSEALED}", {json.dumps(metadata, sort_keys=True).removeprefix("{")}'
    with replacing(path) as partial:
        partial.touch()
        mode = partial.stat().st_mode
        try:
            save_file(dict(state), partial, metadata={key: entry})
            seal_file(partial)
        except SafetensorError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise InputError(f"'{path}' cannot be written: {error}.") from None
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
        # What save_file leaves behind is readable by its owner only; a file that open() makes goes by the umask.
        partial.chmod(mode)


def random_state(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """Return untrained tensors for the model, each from a generator of its own name and the seed.

    Convolutions get the scale that ReLU networks keep (He), linear layers 1/sqrt(inputs), norms the identity;
    the last norm of a residual block is damped, and that of a non-local block zero, else the sum over many blocks would
    leave float16's range.
    """
    state = {}
    for name, tensor in model.state_dict().items():
        shape = tensor.shape
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros(shape, dtype=torch.int64)
        elif len(shape) > 1:
            gain = 1.0 if len(shape) == 2 else 2.0
            key = hashlib.sha256(f"{seed}/{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(key[:8], "big") >> 1)
            state[name] = torch.randn(shape, generator=generator) * math.sqrt(gain / math.prod(shape[1:]))
        else:
            state[name] = torch.full(shape, _initial_value(name))
    return state


def _initial_value(name: str) -> float:
    if name.endswith("bn3.weight"):
        return 0.25
    if name.endswith("non_local.bn.weight"):
        return 0.0
    return 1.0 if name.endswith(("weight", "running_var")) else 0.0


def assign_state(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Make `state` the model's tensors, as float32; names and shapes must match exactly."""
    expected = model.state_dict()
    problems = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": [
            f"{name} {list(state[name].shape)} instead of {list(tensor.shape)}"
            for name, tensor in expected.items()
            if name in state and state[name].shape != tensor.shape
        ],
    }
    found = "; ".join(f"{len(names)} {problem}: {listed(names)}" for problem, names in problems.items() if names)
    if found:
        raise InputError(f"{source} does not fit this backbone. Tensors {found}. Check the kind and the preset.")
    model.load_state_dict(
        {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()},
        assign=True,
    )


def listed(names: Iterable[str]) -> str:
    names = list(names)
    rest = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {rest} more" if rest > 0 else "")
