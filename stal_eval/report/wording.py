"""What the page calls things: outcomes, operating points, and how it writes numbers."""

from stal_data.amounts import noun
from stal_eval.outcomes import NEAR_IOU

TRUTH_WORDS = {
    "found": "found",
    "action_below_cut": "person found, action scored below the cut",
    "fits_other_person": "box fits another person with this action better",
    "action_not_predicted": "person found, no row for this action",
    "poor_localisation": "box poorly placed",
    "missed_person": "person missed",
    "excluded_key_frame": "on an excluded key frame, where the protocol finds nothing",
}
ROW_WORDS = {
    "correct": "right",
    "duplicate": "duplicate of a better row",
    "wrong_action": "wrong action on a found person",
    "poor_localisation": "box poorly placed",
    "background": "nobody annotated there",
}
POINTS = {
    "best_f1": "at each class's best F1",
    "chosen": "all rows at the reported capacity",
    "at_50": "all rows at capacity 50",
}


def points(value: float | None) -> str:
    """Return a fraction in points of 100; a dash for None, which is a class without ground truth."""
    return "-" if value is None else f"{100 * value:.2f}"


def count(value: int, one: str | None = None) -> str:
    """Return a whole number with narrow spaces between thousands. one: what is counted, in the singular."""
    text = f"{value:,}".replace(",", "\u202f")
    return text if one is None else f"{text} {noun(value, one)}"


def capacity_words(capacity: int) -> str:
    return f"capacity {capacity}" if capacity else "no capacity limit"


def iou_words(min_iou: float) -> str:
    """Return what the outcomes about boxes mean, in one sentence."""
    return (
        f"A box with an IoU of at least {min_iou:g} finds a person, one of at least {NEAR_IOU:g} is poorly placed, one "
        "below that is on nobody."
    )
