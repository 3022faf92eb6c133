"""What code bases do differently when they compute the same mAP, one field a difference; presets fill the fields.

docs/evaluation.md cites where each value was read. None of this is needed for the protocol `stal`, the default.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from stal_data.errors import InputError, did_you_mean
from stal_eval.capacities import NO_LIMIT, parse_capacities
from stal_eval.rounding import MAX_DECIMALS

Exclusions = Literal["left_out", "ignored", "left_out_but_recalled"]
Frames = Literal["all", "with_ground_truth"]
Classes = Literal["with_ground_truth", "with_ground_truth_and_predictions"]
CutTies = Literal["file_order", "heap"]
MatchOrder = Literal["score", "file_order"]
EmptyBoxes = Literal["wrong", "left_out"]
TieOrder = Literal["file", "reversed_stable", "argsort"]
Precision = Literal["float32", "float64"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How rows become mAP. Steps happen in the order of the fields.

    name: the preset it comes from.
    min_score: rows whose score, before rounding, is not above it do not count; None keeps all.
    score_decimals, box_decimals: decimals that scores and predicted boxes are rounded to, as %.3f does; None: as given.
    exclusions: what an excluded key frame does. left_out: neither side counts. ignored: it is scored like any other.
        left_out_but_recalled: nothing on it can be found, but its ground truth still counts in the recall.
    frames: which key frames have their predictions scored, in the order of which file. all: of the predictions.
        with_ground_truth: of the ground truth; on other key frames predictions vanish instead of being wrong.
    capacities: best-scored rows (box x class) kept of each key frame, as on the command line: `50:2200` sweeps, 0 is
        no limit.
    cut_ties: which of equal scores a capacity keeps. file_order: the first. heap: of a heap of the best rows so far,
        a better row drives out the lowest score, then label id, y1, x1, y2, x2; an equal score drives out nothing.
    empty_boxes: what a predicted box without area is, once it took its place within the capacity.
    match_order: which row has a ground-truth box that several find: the best-scored, or the first of the file.
    iou: a row finds a box from this IoU on, and looks only at the box of its class with the highest.
    precision: numbers in which IoUs are computed and the scores of a class are ranked.
    tie_order: how rows of one class with equal scores rank. file: in the order in which they match boxes, with key
        frames in file order. The others rank by `numpy.argsort`, reversed, over the rows in that order, so that a copy
        of a box tends to rank before the row that matched it. reversed_stable: with a stable sort. argsort: with the
        default sort, whose order of equal scores depends on NumPy's version and on the processor.
    classes: which classes of the label map are in the mean.
    """

    name: str
    min_score: float | None = None
    score_decimals: int | None = None
    box_decimals: int | None = None
    exclusions: Exclusions = "left_out"
    frames: Frames = "all"
    capacities: str = "50:2200"
    cut_ties: CutTies = "file_order"
    empty_boxes: EmptyBoxes = "wrong"
    match_order: MatchOrder = "score"
    iou: float = 0.5
    precision: Precision = "float64"
    tie_order: TieOrder = "file"
    classes: Classes = "with_ground_truth"

    def __post_init__(self) -> None:
        if not 0 < self.iou <= 1:
            raise InputError(f"iou is {self.iou}, but must be above 0 and at most 1; AVA's is 0.5.")
        for field, allowed in _CHOICES.items():
            if getattr(self, field) not in allowed:
                raise InputError(f"{field} is '{getattr(self, field)}', but must be one of {', '.join(allowed)}.")
        for field in ("score_decimals", "box_decimals"):
            decimals = getattr(self, field)
            if decimals is not None and not 0 <= decimals <= MAX_DECIMALS:
                raise InputError(f"{field} is {decimals}, but must be from 0 to {MAX_DECIMALS}, or None.")
        kept = parse_capacities(self.capacities)
        if self.match_order == "file_order" and kept != (NO_LIMIT,):
            raise InputError(
                f"capacities is '{self.capacities}', but the protocol {self.name} keeps every row, because it gives "
                "boxes to rows in file order: leave capacities out, or take another protocol."
            )
        if self.match_order == "file_order" and self.tie_order == "file":
            raise InputError("tie_order is 'file', which is for rows that match boxes by score: take another.")

    @property
    def keeps_prefixes(self) -> bool:
        """Whether what a larger capacity adds changes nothing among the rows before, so that one pass serves all."""
        return self.tie_order == "file"

    def changed_fields(self) -> tuple[str, ...]:
        """Return the names of the fields that differ from the preset of the same name."""
        preset = PROTOCOLS.get(self.name, self)
        return tuple(item.name for item in fields(self) if getattr(self, item.name) != getattr(preset, item.name))

    def describe(self) -> dict[str, Any]:
        """Return every field, and which of them are not the preset's, as plain values for metrics.json."""
        return asdict(self) | {"changed_fields": list(self.changed_fields())}


_CHOICES: dict[str, tuple[str, ...]] = {
    "exclusions": get_args(Exclusions),
    "frames": get_args(Frames),
    "cut_ties": get_args(CutTies),
    "empty_boxes": get_args(EmptyBoxes),
    "match_order": get_args(MatchOrder),
    "precision": get_args(Precision),
    "tie_order": get_args(TieOrder),
    "classes": get_args(Classes),
}

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(name="stal"),
        Protocol(
            name="published",
            score_decimals=3,
            box_decimals=3,
            exclusions="ignored",
            cut_ties="heap",
            empty_boxes="left_out",
            tie_order="argsort",
        ),
        Protocol(name="ava", capacities="50", cut_ties="heap", empty_boxes="left_out", tie_order="argsort"),
        Protocol(
            name="pyslowfast",
            capacities="0",
            empty_boxes="left_out",
            match_order="file_order",
            tie_order="argsort",
        ),
        Protocol(
            name="mmaction2",
            min_score=0.002,
            score_decimals=4,
            box_decimals=4,
            exclusions="left_out_but_recalled",
            frames="with_ground_truth",
            capacities="0",
            precision="float32",
            tie_order="argsort",
            classes="with_ground_truth_and_predictions",
        ),
    )
}
"""The presets by name."""


def recorded_fields(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a protocol as a file states them; older files lack some, and then mean the defaults."""
    names = {"claim_order": "match_order"}  # earlier versions' names
    return {"precision": "float64", "tie_order": "file"} | {names.get(name, name): recorded[name] for name in recorded}


def choose_protocol(protocol: str | Protocol, *, capacities: str | None = None, iou: float | None = None) -> Protocol:
    """Return a preset, or `protocol` itself, with what was given in place of its own values."""
    if isinstance(protocol, str):
        if protocol not in PROTOCOLS:
            raise InputError(f"There is no protocol '{protocol}'. {did_you_mean(protocol, PROTOCOLS)}")
        protocol = PROTOCOLS[protocol]
    given: dict[str, Any] = {"capacities": capacities, "iou": iou}
    return replace(protocol, **{name: value for name, value in given.items() if value is not None})
