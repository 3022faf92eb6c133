"""Scores of people, from a trained run or from a module of one's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from stal.features import Features
from stal.store import Run
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame, ScoredKeyFrame
from stal_data.labels import LabelMap

if TYPE_CHECKING:
    import pandas as pd

    from recognizer_svc.scoring.predict import Predictor


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What `evaluate` takes: of `predict` and `Head.score`, or made of the lists that `Batch.scored` returns.

    label_map: the C classes. key_frames: each with key, boxes_N4 [n, 4] and scores_NC [n, C].
    notes: what differs between the features of the training and these, and the like.
    Raises StalError where scores do not fit the boxes or the classes.
    """

    label_map: LabelMap
    key_frames: Sequence[ScoredKeyFrame]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for item in self.key_frames:
            needed = (len(item.boxes_N4), self.label_map.num_classes)
            if item.scores_NC.shape != needed:
                raise InputError(
                    f"scores_NC of key frame {item.key} has shape {list(item.scores_NC.shape)}, but must be "
                    f"{list(needed)}: a row for each box, a column for each class of the label map."
                )

    def to_frame(self) -> "pd.DataFrame":
        """Return rows video,timestamp,x1,y1,x2,y2,label,score, one for each box and class; timestamps in seconds."""
        import pandas as pd

        columns = ["video", "timestamp", "x1", "y1", "x2", "y2", "label", "score"]
        rows = [
            (item.key.video, item.key.time_ms / 1000, *box, label_id, score)
            for item in self.key_frames
            for box, scores in zip(item.boxes_N4.tolist(), item.scores_NC.tolist(), strict=True)
            for label_id, score in zip(self.label_map.ids, scores, strict=True)
        ]
        return pd.DataFrame(rows, columns=columns)

    def write(self, path: Path | str) -> None:
        """Write the rows of `to_frame` as the CSV file that `stal-cli predict` writes, atomically."""
        from recognizer_svc.scoring.predictions_csv import writing_predictions

        with writing_predictions(Path(path), self.label_map.ids) as writer:
            for item in self.key_frames:
                writer.write(item)


def predict(
    run: Run,
    dataset: str,
    split: str,
    *,
    boxes: str = "ground-truth",
    checkpoint: Literal["best", "latest"] | None = None,
    feature_set: str | None = None,
    flip_average: bool = False,
    fuse_confidence: bool = False,
) -> Predictions:
    """Score the people of a split with a trained run, as `stal-cli predict` does; key frames without are left out.

    boxes: whom to score: `ground-truth`, `proposals`, or `proposals:NAME` as `stal-cli detect --name` filed them.
    checkpoint: default: the best where the run keeps it, else the latest.
    feature_set: its id; needed only where several fit the head.
    flip_average: average with the scores on the mirrored features (`precompute --view hflip`).
    fuse_confidence: multiply each box's scores by the detector's confidence; needs proposals.
    Raises StalError where the run, the boxes or fitting features are missing or damaged.
    """
    from recognizer_svc.scoring.engine import Engine
    from recognizer_svc.scoring.queries import PredictQuery, parse_boxes
    from recognizer_svc.scoring.served_models import ServedModels

    kind, name = parse_boxes(boxes)
    query = PredictQuery(
        run_id=run.id,
        checkpoint=checkpoint or "",
        dataset=dataset,
        split=split,
        proposals=None if kind == "ground-truth" else name,
        feature_set=feature_set or "",
        flip_average=flip_average,
        fuse_confidence=fuse_confidence,
    )
    found = Engine(run.store.folders, device="auto", served=ServedModels()).prepare(query)
    return Predictions(label_map=found.model.label_map, key_frames=list(found.scored), notes=found.notes)


class Head:
    """A trained head, ready to score; `load_head` makes one. label_map: the classes of its scores."""

    def __init__(self, predictor: "Predictor") -> None:
        self.label_map = predictor.label_map
        self._predictor = predictor

    def score(self, features: Features, boxes: Mapping[KeyFrame, NDArray[np.float32]]) -> Predictions:
        """Return scores [n, C] in [0,1] of boxes on cached key frames, in the order of `boxes`.

        boxes: float32 [n, 4] of each key frame, x1,y1,x2,y2 in [0,1] of it: all its people, since a head may judge
            them with an eye on each other. A head that looks at other key frames, too, finds in `boxes` who is
            there.
        Raises StalError for boxes that are not valid, key frames that are not among the features, and features of other
        backbones than those of the training.
        """
        from recognizer_svc.people import People
        from recognizer_svc.scoring.predict import BoxesOfKeyFrame

        around = self._predictor.neighbourhood({key: People.of(boxes_N4) for key, boxes_N4 in boxes.items()})
        people = [BoxesOfKeyFrame(key=key, boxes_N4=boxes_N4, around=around) for key, boxes_N4 in boxes.items()]
        notes = self._predictor.check_spec(features.feature_set)
        scored = list(self._predictor.predict(features.feature_set, people))
        return Predictions(label_map=self.label_map, key_frames=scored, notes=notes)


def load_head(run: Run, *, checkpoint: Literal["best", "latest"] | None = None, device: str = "auto") -> Head:
    """Load the head of a run.

    checkpoint: default: the best where the run keeps it, else the latest.
    device: as torch names it; `auto` is CUDA where there is some, else the CPU.
    Raises StalError where the run has no such checkpoint, or a damaged one.
    """
    from recognizer_svc.scoring.models import load_run

    return Head(load_run(run.store.folders, run.id, checkpoint or "", device=device).predictor)
