"""DataFrames and label maps for the tests."""

from collections.abc import Sequence

import pandas as pd

from stal_data.labels import Label, LabelMap
from tests.eval.brute_force import Found, Truth

PREDICTIONS = ["video", "timestamp", "x1", "y1", "x2", "y2", "label", "score"]
GROUND_TRUTH = PREDICTIONS[:-1]

# Label 3 is missing on purpose: ids need not be dense.
LABEL_MAP = LabelMap([Label(1, "walk"), Label(2, "wave"), Label(4, "watch")], "test labels")


def predictions_frame(rows: Sequence[Found]) -> pd.DataFrame:
    return pd.DataFrame([(r.video, r.timestamp, *r.box, r.label, r.score) for r in rows], columns=PREDICTIONS)


def ground_truth_frame(rows: Sequence[Truth]) -> pd.DataFrame:
    return pd.DataFrame([(r.video, r.timestamp, *r.box, r.label) for r in rows], columns=GROUND_TRUTH)
