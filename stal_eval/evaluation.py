"""Evaluation from files or DataFrames to a result, in one call."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from stal_data.keyframes import KeyFrame
from stal_data.labels import LabelMap
from stal_eval.capacities import format_capacities
from stal_eval.chosen_capacity import read_choice
from stal_eval.protocol import Protocol, choose_protocol
from stal_eval.requested import Requested
from stal_eval.result import Evaluation

if TYPE_CHECKING:
    import pandas as pd


def evaluate(
    predictions: "Path | str | pd.DataFrame",
    ground_truth: "Path | str | pd.DataFrame",
    label_map: Path | str | LabelMap,
    *,
    exclusions: Path | str | Collection[KeyFrame] | None = None,
    protocol: str | Protocol = "stal",
    capacities: str | Iterable[int] | None = None,
    capacity_from: Path | str | None = None,
    iou: float | None = None,
    split: str | None = None,
    dataset: str | None = None,
    tie_bounds: bool = True,
    exact: bool = False,
    requested: Requested | None = None,
) -> Evaluation:
    """Return mAP at every capacity.

    A capacity keeps that many best-scored rows (box x class) of each key frame. mAP is the mean, over the classes with
    ground truth, of the area under the interpolated precision-recall curve; a row is right when the ground-truth box of
    its class with the highest IoU reaches `iou` and no better-scored row has it. Equal scores rank in file order, or as
    the protocol says.

    predictions: rows video,timestamp,x1,y1,x2,y2,label,score. ground_truth: the same with a person id, or nothing, as
    last column. Files have no header and may be gzip; DataFrames have these column names. Timestamps are seconds with
    at most three decimals, boxes lie in [0,1], labels are ids of the label map. exclusions: a file of video,timestamp,
    or key frames.
    protocol: how another code base computes it: stal, published, ava, pyslowfast, mmaction2, or a Protocol.
    capacities: numbers (0: no limit), or text as on the command line, `50:2200` or `50,100`; default: the protocol's.
    capacity_from: another metrics.json, whose capacity is reported instead of the best one on the scored split.
    iou: default: the protocol's, 0.5. split, dataset: names for the record; the split is by default called like the
    ground-truth file. tie_bounds: also bound mAP over the orders of equal scores, which takes three times as long.
    exact: under the protocols published, ava, pyslowfast and mmaction2 a sweep of more than 16 capacities is exact at
    the best, the reported one and 50, and near that elsewhere; True makes it exact everywhere, by a pass for each.
    requested: further figures, which the result then has in `optional`.
    """
    text = capacities if capacities is None or isinstance(capacities, str) else format_capacities(capacities)
    chosen = choose_protocol(protocol, capacities=text, iou=iou)
    choice = None if capacity_from is None else read_choice(Path(capacity_from))
    # pandas and numba take a second to import; errors in the options come first.
    from stal_eval.preparation import prepare
    from stal_eval.scoring import score

    prepared = prepare(
        predictions, ground_truth, label_map, protocol=chosen, exclusions=exclusions, split=split, dataset=dataset
    )
    return score(prepared, capacity_from=choice, tie_bounds=tie_bounds, exact=exact, requested=requested)
