"""What a validation finds and counts."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from stal_data.amounts import amount
from stal_data.dataset import Split
from stal_data.keyframes import AnnotatedKeyFrame
from stal_data.labels import LabelMap

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One broken rule.

    split: where it was found; "" when it concerns the whole data set. rule: a short name that groups findings.
    path, line: the file and line (from 1), or a folder, to look at; line is None for folders and whole files.
    message: the value, the rule and the way out.
    """

    split: str
    severity: Severity
    rule: str
    path: Path
    line: int | None = None
    message: str

    def __str__(self) -> str:
        place = str(self.path) if self.line is None else f"{self.path}:{self.line}"
        return f"{place}: {self.severity}: {self.message} [{self.rule}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How much a split holds; excluded key frames are counted apart and nowhere else.

    without_people: key frames without a box. actions: (box, action) pairs. per_class: pairs by class name, all classes.
    """

    split: str
    videos: int
    key_frames: int
    excluded: int
    without_people: int
    boxes: int
    actions: int
    per_class: dict[str, int]

    def line(self) -> str:
        """What a command prints of the split."""
        return (
            f"Split {self.split}: {amount(self.videos, 'video')}, {amount(self.key_frames, 'key frame')} "
            f"({self.without_people} without people, {self.excluded} excluded), {amount(self.boxes, 'box')}, "
            f"{amount(self.actions, 'action')}"
        )

    @classmethod
    def of(cls, split: Split) -> "Counts":
        return cls.of_key_frames(split.name, split.key_frames, len(split.exclusions), split.label_map)

    @classmethod
    def of_key_frames(
        cls, name: str, key_frames: tuple[AnnotatedKeyFrame, ...], excluded: int, label_map: LabelMap | None
    ) -> "Counts":
        actions = Counter(label for item in key_frames for labels in item.labels for label in labels)
        return cls(
            split=name,
            videos=len({item.key.video for item in key_frames}),
            key_frames=len(key_frames),
            excluded=excluded,
            without_people=sum(not item.labels for item in key_frames),
            boxes=sum(len(item.labels) for item in key_frames),
            actions=actions.total(),
            per_class={label.name: actions[label.id] for label in label_map.labels} if label_map else {},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All findings, by split and rule, and the counts of the splits that could be read."""

    findings: tuple[Finding, ...]
    counts: tuple[Counts, ...] = field(default=())

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "error")
