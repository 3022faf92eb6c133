"""Tensors out of a checkpoint from elsewhere: a safetensors file, or a pickle, by restricted loaders alone.

`weights_only` builds containers, numbers, strings and tensors. Whatever else a file names is refused, or, on request,
replaced by an empty stand-in: no class or function of the file's choosing is ever looked up, let alone called.
Caffe2's pickles hold NumPy arrays; `load_arrays` reads them and builds nothing else.
"""

import pickle
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cache.backbones.weights import read_tensors
from stal_data.errors import InputError, NotFoundError
from stal_data.published.unpickle_arrays import load_arrays

WRAPPERS = ("state_dict", "model_state", "model", "module", "blobs")
"""Keys under which a training code may keep the tensors, the first that is there counts."""

DATA_PARALLEL = "module."
SKIP = (
    "Usually they are training state beside the weights: add --skip-objects to leave them unread and take the tensors "
    "alone; none of their code runs."
)
CONVERT = (
    "They cannot be left out of this file: ask its publisher for a .safetensors file, or save its tensors alone with "
    "the code that wrote it, on a machine that may run that code."
)
_ZIP = b"PK\x03\x04"
_OLD_FORMAT = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)
"""How files of torch.save begin that are no zip archives."""


@dataclass(frozen=True, kw_only=True)
class ForeignCheckpoint:
    """tensors: by name, on the CPU, without the DataParallel prefix; backed by the file, so leave it in place.

    found_under: the keys that led to the tensors, empty at the top level.
    ignored: everything else in the file, as name -> reason.
    epoch: finished epochs, where the file says so.
    settings: text under `cfg` at the top level, where PySlowFast keeps its settings.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    found_under: tuple[str, ...]
    ignored: Mapping[str, str]
    epoch: int | None
    settings: str | None


def read_foreign(path: Path, *, skip_objects: bool = False) -> ForeignCheckpoint:
    """Read a checkpoint: a safetensors file where that is its suffix, else a pickle (.pt, .pth, .pth.tar, .bin).

    A .pkl that torch.save did not write is taken for one of Caffe2.

    skip_objects: leave objects of classes that are not read out, instead of refusing the file.
    """
    content, skipped = _load(path, skip_objects=skip_objects)
    if not isinstance(content, Mapping):
        raise InputError(f"'{path}' holds a {type(content).__name__}, but must hold tensors by name.")
    epoch, settings = content.get("epoch"), content.get("cfg")
    ignored = dict.fromkeys(skipped, "an object of this class, left unread")
    found_under: list[str] = []
    while (wrapper := next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)) is not None:
        ignored |= {".".join([*found_under, str(key)]): "beside the weights" for key in content if key != wrapper}
        found_under.append(wrapper)
        content = content[wrapper]
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    ignored |= {
        ".".join([*found_under, str(name)]): f"no tensor but a {type(value).__name__}"
        for name, value in content.items()
        if not isinstance(value, Tensor)
    }
    if not tensors:
        found = ", ".join(list(ignored)[:8]) or "nothing"
        raise InputError(
            f"'{path}' holds no tensors at the top level, nor under {', '.join(WRAPPERS)}; it holds {found}."
        )
    odd = [name for name, tensor in tensors.items() if not _has_values(tensor)]
    if odd:
        raise InputError(
            f"'{path}' holds tensors without values of their own (sparse, meta or repeated ones): {', '.join(odd[:8])}."
        )
    while all(name.startswith(DATA_PARALLEL) for name in tensors):
        tensors = {name.removeprefix(DATA_PARALLEL): tensor for name, tensor in tensors.items()}
    return ForeignCheckpoint(
        path=path,
        tensors=tensors,
        found_under=tuple(found_under),
        ignored=ignored,
        epoch=epoch if isinstance(epoch, int) and epoch >= 0 else None,
        settings=settings if isinstance(settings, str) else None,
    )


def _has_values(tensor: Tensor) -> bool:
    """Whether the file holds each value: else it may claim a shape beyond all memory for a few stored bytes."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    return tensor.nbytes <= tensor.untyped_storage().nbytes()


def _load(path: Path, *, skip_objects: bool) -> tuple[Any, list[str]]:
    """Return the content, and the classes whose objects were left out."""
    if not path.is_file():
        raise NotFoundError(f"The checkpoint '{path}' does not exist.")
    if path.suffix == ".safetensors":
        return read_tensors(path)[1], []
    with path.open("rb") as file:
        start = file.read(len(_OLD_FORMAT))
    zipped = start.startswith(_ZIP)
    if path.suffix == ".pkl" and not zipped and start != _OLD_FORMAT:
        return _caffe2(load_arrays(path)), []
    skipped: list[str] = []
    stand_ins: AbstractContextManager[Any] = nullcontext()
    try:
        if zipped:
            # Stated from the pickle's text; nothing is loaded for it.
            foreign = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
            if foreign and not skip_objects:
                raise InputError(_refusal(path, f"{', '.join(foreign)}.", SKIP))
            skipped = foreign
            stand_ins = torch.serialization.safe_globals([(_stand_in(name), name) for name in foreign])
        with stand_ins:
            # A mapped file costs memory only where it is looked at, and optimizer state is not.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped), skipped
    except pickle.UnpicklingError as error:
        raise InputError(_refusal(path, _first_sentence(error), CONVERT)) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"'{path}' does not read as a checkpoint of torch.save: {_first_sentence(error)} Copy it again."
        ) from None


def _caffe2(content: object) -> object:
    """Return the content with tensors in place of the arrays in its `blobs`; without these as it is."""
    if not isinstance(content, dict) or not isinstance(content.get("blobs"), dict):
        return content
    blobs = {
        name: torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
        for name, value in content["blobs"].items()
    }
    return content | {"blobs": blobs}


def _stand_in(name: str) -> type:
    """An empty class that takes an object's place: it accepts what the object was made of and keeps no behaviour."""

    def ignore(*_: object, **__: object) -> None:
        return None

    # A list, because objects that derive from one are filled like one.
    return type(f"Unread[{name}]", (list,), {"__init__": ignore, "__setstate__": ignore})


def _refusal(path: Path, found: str, way_out: str) -> str:
    return f"'{path}' holds objects of classes that are not read, because building them runs code: {found} {way_out}"


def _first_sentence(error: Exception) -> str:
    text = str(error)
    for marker in ("WeightsUnpickler error: ", "Unsupported global: "):
        if marker in text:
            text = text.rpartition(marker)[2]
    return (text.splitlines() or [type(error).__name__])[0].partition(". ")[0].rstrip(".") + "."
