"""The reported capacity, and on which split it was chosen: a capacity chosen on the scored split flatters."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stal_data.errors import InputError, NotFoundError
from stal_data.user_files import read_text_bounded
from stal_eval.protocol import recorded_fields

_MAX_BYTES = 256 << 20
# Which capacities are tried changes no mAP; the name stands for the other fields.
_FIELDS_THAT_MAY_DIFFER = {"name", "capacities", "changed_fields"}


@dataclass(frozen=True, kw_only=True)
class ScoredSplit:
    """A split with the predictions that were scored on it.

    name: by default the ground truth's file name. digests: sha256 (hex).
    """

    name: str
    dataset: str | None
    ground_truth_digest: str
    predictions_digest: str

    def __str__(self) -> str:
        return f"{self.name} of {self.dataset}" if self.dataset else self.name


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A capacity and the split on which it was chosen; None where it was given, so that nothing was chosen.

    protocol: the fields of the protocol by which the split was scored then.
    """

    capacity: int
    split: ScoredSplit | None
    protocol: dict[str, Any]

    def is_on(self, scored: ScoredSplit) -> bool:
        """Tell whether it was chosen on the ground truth that is scored."""
        return self.split is not None and self.split.ground_truth_digest == scored.ground_truth_digest

    def differing_fields(self, protocol: dict[str, Any]) -> list[str]:
        """Return what differs between this protocol and the one by which the capacity was chosen, the sweep apart."""
        names = sorted((self.protocol.keys() | protocol.keys()) - _FIELDS_THAT_MAY_DIFFER)
        return [
            f"{name} ({self.protocol.get(name)} there, {protocol.get(name)} here)"
            for name in names
            if self.protocol.get(name) != protocol.get(name)
        ]

    def describe(self, scored: ScoredSplit) -> str:
        if self.split is None:
            return "given, not chosen by its mAP"
        if self.is_on(scored):
            where = f"chosen on the scored split itself ({self.split})"
            return f"{where}, so this mAP is too optimistic: give mAP at 50 beside it"
        return f"chosen on {self.split}, applied to {scored}"


def read_metrics(path: Path, field: str, *, option: str) -> dict[str, Any]:
    """Return a field of a metrics.json. option: what messages name."""
    try:
        content = json.loads(read_text_bounded(path, _MAX_BYTES))
    except FileNotFoundError:
        raise NotFoundError(f"{option}: the file {path} does not exist.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{option}: {path} cannot be read as JSON: {error}.") from error
    found = content.get(field) if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise InputError(f"{option}: {path} has no field '{field}': give a metrics.json that stal-cli eval wrote.")
    return found


def read_choice(path: Path) -> Choice:
    """Return the capacity that another metrics.json reports, with the split on which that was chosen."""
    chosen = read_metrics(path, "chosen", option="capacity-from")
    try:
        return _parse(chosen)
    except (KeyError, TypeError) as error:
        raise InputError(
            f"capacity-from: {path} has no field {error} under 'chosen': give a metrics.json that this version of "
            "stal-cli eval wrote."
        ) from error


def _parse(chosen: dict[str, Any]) -> Choice:
    capacity = chosen["capacity"]
    if not isinstance(capacity, int) or capacity < 0:
        raise InputError(f"capacity-from: the capacity is {capacity!r}, but must be a whole number from 0.")
    protocol, on = recorded_fields(chosen["protocol"]), chosen["chosen_on"]
    if on is None:
        return Choice(capacity=capacity, split=None, protocol=protocol)
    split = ScoredSplit(
        name=str(on["split"]),
        dataset=on["dataset"],
        ground_truth_digest=on["ground_truth"],
        predictions_digest=on["predictions"],
    )
    return Choice(capacity=capacity, split=split, protocol=protocol)
