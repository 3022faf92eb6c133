"""What a weight file is, in words: ours, or a pickled checkpoint from elsewhere."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from cache.backbones.foreign import read_foreign
from cache.backbones.weights import METADATA_KEY, read_tensors, weights_digest
from recognizer_svc.training.head_file import METADATA_KEY as HEAD_KEY
from recognizer_svc.training.head_file import HeadInfo, head_info
from stal_data.errors import InputError, NotFoundError

Parts = dict[str, tuple[int, int]]
"""First part of the tensors' names -> number of tensors, number of values in them."""


def describe(path: Path, *, skip_objects: bool = False) -> tuple[dict[str, str], Parts]:
    """Return facts about a weight file by name, and how its tensors are spread over its parts."""
    if not path.is_file():
        raise NotFoundError(f"The weight file '{path}' does not exist.")
    if path.suffix != ".safetensors":
        checkpoint = read_foreign(path, skip_objects=skip_objects)
        facts = {
            "format": "pickled checkpoint; 'stal-cli weights import' makes it usable",
            "tensors under": ".".join(checkpoint.found_under) or "top level",
            "epoch": "-" if checkpoint.epoch is None else str(checkpoint.epoch),
            "beside the tensors": ", ".join(checkpoint.ignored) or "nothing",
        }
        return facts | _size(path, checkpoint.tensors), _parts(checkpoint.tensors)
    header, tensors = read_tensors(path)
    if HEAD_KEY in header:
        facts = _head_facts(head_info(header, str(path)))
    elif METADATA_KEY in header:
        facts = _backbone_facts(header[METADATA_KEY], path)
    else:
        facts = {"kind": "tensors from elsewhere: name the preset where you use them"}
    facts["sha256 of the tensors"] = weights_digest(tensors)
    return facts | _size(path, tensors), _parts(tensors)


def _backbone_facts(metadata: str, path: Path) -> dict[str, str]:
    try:
        values = json.loads(metadata)
        facts = {"kind": f"{values['kind']} backbone", "preset": values["preset"]}
        return facts | {name: str(value) for name, value in values["provenance"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"'{path}': its metadata '{METADATA_KEY}' is damaged; write the file again.") from None


def _head_facts(info: HeadInfo) -> dict[str, str]:
    sizes = info.section.model_dump(exclude={"kind", "dropout"})
    return {
        "kind": f"{info.section.kind} head",
        "classes": str(info.num_classes),
        "epochs": "-" if info.epoch is None else str(info.epoch),
        "sizes": ", ".join(f"{name} {value}" for name, value in sizes.items()),
        **{f"trained on {kind}": digest for kind, digest in info.backbones.items()},
        **{name: str(value) for name, value in info.provenance.items()},
    }


def _size(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})
    return {"dtypes": ", ".join(dtypes), "file size": f"{path.stat().st_size / 2**20:.1f} MiB"}


def _parts(tensors: Mapping[str, Tensor]) -> Parts:
    parts: Parts = {}
    for name, tensor in tensors.items():
        part = name.rpartition(".")[0].partition(".")[0] or name
        count, numbers = parts.get(part, (0, 0))
        parts[part] = (count + 1, numbers + tensor.numel())
    return parts
