"""From files or DataFrames to matched rows: everything that does not depend on a capacity."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from stal_data.labels import LabelMap
from stal_eval.alignment import Alignment, Counts, align
from stal_eval.chosen_capacity import ScoredSplit
from stal_eval.exclusions import load_exclusions
from stal_eval.extra import pd
from stal_eval.matching import Matching, match
from stal_eval.protocol import Protocol
from stal_eval.table import load_table


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Predictions matched to ground truth; `scoring.score` turns it into an Evaluation, at any capacities.

    split: what is scored. digests: sha256 of each input (None: not given).
    """

    label_map: LabelMap
    protocol: Protocol
    split: ScoredSplit
    alignment: Alignment
    matching: Matching
    digests: dict[str, str | None]


def prepare(
    predictions: Path | str | pd.DataFrame,
    ground_truth: Path | str | pd.DataFrame,
    label_map: Path | str | LabelMap,
    *,
    protocol: Protocol,
    exclusions: Path | str | Collection[KeyFrame] | None = None,
    split: str | None = None,
    dataset: str | None = None,
) -> Prepared:
    """Read, check and match; the arguments are those of `evaluate`."""
    labels = label_map if isinstance(label_map, LabelMap) else LabelMap.read(Path(label_map))
    excluded = load_exclusions(exclusions)
    truth_table = load_table(ground_truth, "ground truth")
    prediction_table = load_table(predictions, "predictions")
    alignment = align(prediction_table, truth_table, labels, excluded.keys, protocol)
    if alignment.ground_truth.num_rows == 0:
        raise InputError(_nothing_to_find(truth_table.source, labels, alignment.counts))
    name = truth_table.source if isinstance(ground_truth, pd.DataFrame) else Path(ground_truth).name
    return Prepared(
        label_map=labels,
        protocol=protocol,
        split=ScoredSplit(
            name=split or name,
            dataset=dataset,
            ground_truth_digest=truth_table.digest,
            predictions_digest=prediction_table.digest,
        ),
        alignment=alignment,
        matching=match(alignment, labels.num_classes, protocol),
        digests={
            "predictions": prediction_table.digest,
            "ground_truth": truth_table.digest,
            "label_map": labels.digest,
            "exclusions": excluded.digest,
        },
    )


def _nothing_to_find(source: str, label_map: LabelMap, counts: Counts) -> str:
    if counts.ground_truth_rows == 0:
        return f"{source} holds no row, so there is nothing to find: give the split's ground truth."
    return (
        f"{source}: none of the {counts.ground_truth_rows} rows can be scored, {counts.excluded_ground_truth_rows} are "
        f"on excluded key frames and the labels of {counts.ground_truth_rows_outside_label_map} are not in "
        f"{label_map.source}, {label_map.describe_ids()}: check the label map and the exclusions."
    )
