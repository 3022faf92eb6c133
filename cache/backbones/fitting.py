"""Which tensors of a foreign file a network takes, and what becomes of the others."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from stal_data.errors import InputError

COUNTER = "num_batches_tracked"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """loaded: the network's tensors, all of them, by its names.

    zeroed: counters of loaded that the file lacks; older versions of torch did not save them, and nothing reads them.
    ignored: tensors of the file that the network does not have, as name -> reason.
    """

    loaded: dict[str, Tensor]
    zeroed: tuple[str, ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)


def fit_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, source: str, what: str) -> Fit:
    """Match tensors by name and shape.

    Tensors of parts that the network does not have are ignored. Missing ones, wrong shapes, values that are not finite
    and unknown tensors inside the network's own parts (a sign of another architecture) are listed in one error.

    source: the file; what: the network; both for the error.
    """
    missing = [name for name in expected if name not in found]
    zeroed = [name for name in missing if name.endswith(COUNTER)]
    parts = {_part(name) for name in expected}
    unknown = [name for name in found if name not in expected]
    present = [name for name in expected if name in found]
    problems = {
        "missing": [name for name in missing if name not in zeroed],
        "of another shape": [
            f"{name} {list(found[name].shape)} instead of {list(expected[name].shape)}"
            for name in present
            if found[name].shape != expected[name].shape
        ],
        "of whole numbers where fractions are needed, or the other way round": [
            name for name in present if found[name].is_floating_point() != expected[name].is_floating_point()
        ],
        "not finite": [name for name in present if not _finite(found[name])],
        "unknown inside the network's own parts": [name for name in unknown if _part(name) in parts],
    }
    if not present:
        raise InputError(f"{source} holds no tensor of {what}; its first ones are {', '.join(list(found)[:4])}.")
    listed = "".join(f"\n  {len(names)} {text}: {', '.join(names)}" for text, names in problems.items() if names)
    if listed:
        raise InputError(f"{source} does not hold {what}. Tensors:{listed}\nCheck the kind and the preset.")
    return Fit(
        loaded={name: found[name] if name in found else torch.zeros((), dtype=torch.int64) for name in expected},
        zeroed=tuple(zeroed),
        ignored=dict.fromkeys(unknown, "no such part in this network"),
    )


def split_off(
    tensors: Mapping[str, Tensor], prefixes: Iterable[str], reason: str
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors without those whose name starts with a prefix, and the latter as name -> reason."""
    starts = tuple(prefixes)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(starts)}
    return kept, dict.fromkeys((name for name in tensors if name not in kept), reason)


def _part(name: str) -> str:
    return name.partition(".")[0]


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())
