"""Label maps: which actions there are. One owner of ids (from 1, as in the file) and class indices (from 0)."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stal_data.errors import InputError, NotFoundError, shown, shown_problems
from stal_data.text_format import read_messages
from stal_data.user_files import read_text_bounded

MAX_BYTES = 8 << 20  # 8 MiB
MAX_LABELS = 10_000  # scores are an array of boxes by labels
MAX_NAME_LENGTH = 1000
MAX_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Label:
    """One action. id: from 1, unique in its map. type: `label_type` of the file, "" where it has none."""

    id: int
    name: str
    type: str = ""


class LabelMap:
    """The actions of a data set in the order of their ids; a class index is a position in that order."""

    def __init__(self, labels: Iterable[Label], source: str = "label map") -> None:
        """source: what messages call the map, usually its path."""
        self.labels = tuple(sorted(labels, key=lambda label: label.id))
        self.source = source
        if not self.labels:
            raise InputError(f"{source} holds no label, but needs at least one 'label {{ name: ... label_id: ... }}'.")
        if len(self.labels) > MAX_LABELS:
            raise InputError(f"{source} holds {len(self.labels)} labels, but may hold {MAX_LABELS} at most.")
        for label in self.labels:
            if not 1 <= label.id <= MAX_ID:
                raise InputError(
                    f"{source}: the id of {shown(label.name)} is {label.id}, but ids start at 1 and end at {MAX_ID}."
                )
            if not 0 < len(label.name) <= MAX_NAME_LENGTH or not label.name.isprintable():
                raise InputError(
                    f"{source}: the name of label {label.id} is {shown(label.name)}, but must be printable text of at "
                    f"most {MAX_NAME_LENGTH} characters."
                )
            if not re.fullmatch(r"[A-Za-z0-9_]*+", label.type):
                raise InputError(
                    f"{source}: the label_type of {shown(label.name)} is {shown(label.type)}, but must hold letters, "
                    "digits and '_' only."
                )
        self.ids = tuple(label.id for label in self.labels)
        self.names = tuple(label.name for label in self.labels)
        self.types = tuple(label.type for label in self.labels)
        for field, values in (("id", self.ids), ("name", self.names)):
            repeated = sorted(str(value) for value, count in Counter(values).items() if count > 1)
            if repeated:
                named = shown_problems(repeated, str, separator=", ")
                raise InputError(f"{source}: the {field} {named} is used twice, but must be unique.")
        self._index = {label_id: index for index, label_id in enumerate(self.ids)}

    def __contains__(self, label_id: int) -> bool:
        return label_id in self._index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelMap) and self.labels == other.labels

    def __hash__(self) -> int:
        return hash(self.labels)

    def __repr__(self) -> str:
        return f"LabelMap({self.num_classes} classes, {self.digest[:12]})"

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    @property
    def digest(self) -> str:
        """sha256 (hex) of the canonical text: the same labels give the same digest, however the file is laid out."""
        return hashlib.sha256(self.to_pbtxt().encode()).hexdigest()

    def index_of(self, label_id: int) -> int:
        """Return the class index (0 .. num_classes-1) of an id."""
        if label_id not in self._index:
            raise InputError(f"Label {label_id} is not in {self.source}, {self.describe_ids()}.")
        return self._index[label_id]

    def targets(self, labels: Sequence[Iterable[int]]) -> NDArray[np.float32]:
        """Return [N, classes], 1 where a person performs the class, from the ids of each person's actions."""
        targets_NC = np.zeros((len(labels), self.num_classes), dtype=np.float32)
        for row, ids in enumerate(labels):
            for label_id in ids:
                targets_NC[row, self.index_of(label_id)] = 1
        return targets_NC

    def describe_ids(self) -> str:
        """Return a phrase such as `which has 50 labels, 1 to 50`."""
        return f"which has {self.num_classes} labels, {self.ids[0]} to {self.ids[-1]}"

    def to_pbtxt(self) -> str:
        return "".join(
            f"label {{\n  name: {_quoted(label.name)}\n  label_id: {label.id}\n"
            + (f"  label_type: {label.type}\n" if label.type else "")
            + "}\n"
            for label in self.labels
        )

    @classmethod
    def read(cls, path: Path) -> "LabelMap":
        try:
            text = read_text_bounded(path, MAX_BYTES)
        except FileNotFoundError:
            raise NotFoundError(f"The label map {path} does not exist.") from None
        except OSError as error:
            raise InputError(f"The label map {path} cannot be read as text: {error}.") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, source: str) -> "LabelMap":
        """Read protobuf's text format: `label { name label_id label_type }` or AVA's `item { name id }`.

        Other fields are ignored.
        """
        labels = []
        for block, line, fields in read_messages(text, source):
            where = f"{source}, line {line}"
            if block not in ("label", "item"):
                raise InputError(f"{where}: expected 'label {{' or 'item {{', got {shown(block)}.")
            labels.append(_label(fields, where))
        return cls(labels, source)


def _label(fields: Mapping[str, str], where: str) -> Label:
    label_id = fields.get("label_id", fields.get("id"))
    if label_id is None or "name" not in fields:
        got = shown_problems(list(fields), shown, separator=", ") or "nothing"
        raise InputError(f"{where}: a label needs a name and a label_id (or id), got only {got}.")
    if not re.fullmatch(r"-?(0|[1-9][0-9]{0,18})", label_id):
        raise InputError(
            f"{where}: the id of {shown(fields['name'])} is {shown(label_id)}, but must be a whole number without "
            "leading zeros."
        )
    return Label(int(label_id), fields["name"], fields.get("label_type", ""))


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
