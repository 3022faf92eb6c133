"""The names of what becomes of a ground-truth box and of a prediction row; the first one that applies is the only one.

docs/evaluation.md defines them.
"""

NEAR_IOU = 0.1
"""A box that overlaps a person less than this is not about that person."""

TRUTH_OUTCOMES = (
    "found",
    "action_below_cut",
    "fits_other_person",
    "action_not_predicted",
    "poor_localisation",
    "missed_person",
    "excluded_key_frame",
)
ROW_OUTCOMES = ("correct", "duplicate", "wrong_action", "poor_localisation", "background")
