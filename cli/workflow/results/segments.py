"""actions.csv: when each tracked person performs which action, as `stal-cli segments` finds it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cli.workflow.predictions import read_predictions
from stal_eval.columns import Table
from stal_eval.segments import Segment, SegmentRules, find_segments


def segments_of(video: str, predictions: Path, thresholds: Mapping[int, float]) -> list[Segment]:
    """Return the segments of a video that has tracks. thresholds: of all classes, by label id."""
    found = read_predictions(predictions, min_score=0)
    rows = [
        (key.time_ms, who.box, label, score, who.track)
        for key, people in found.items()
        for who in people
        for label, score in who.actions
    ]
    times_ms, boxes, labels, scores, tracks = zip(*rows, strict=True)
    table = Table(
        source=str(predictions),
        digest="",
        videos=(video,),
        video_N=np.zeros(len(rows), dtype=np.int64),
        time_ms_N=np.array(times_ms, dtype=np.int64),
        boxes_N4=np.array(boxes),
        label_N=np.array(labels, dtype=np.int64),
        score_N=np.array(scores, dtype=np.float64),
        person_N=np.array(tracks, dtype=np.int64),
    )
    return find_segments(table, thresholds, SegmentRules())
