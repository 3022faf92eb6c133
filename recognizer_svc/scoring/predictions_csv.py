"""The predictions file: one row per box and class, no header:
video,seconds,x1,y1,x2,y2,label id,score with boxes in [0,1] of the frame and every float32 at full precision. Boxes of
tracked proposals have a ninth column, the person's id in the video, -1 for none."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cache.files import replacing
from stal_data.keyframes import ScoredKeyFrame
from stal_data.times import format_time


class PredictionsWriter:
    """Appends key frames to an open file."""

    def __init__(self, file: IO[str], label_ids: tuple[int, ...]) -> None:
        """label_ids: as in the label map, in the order of the scores."""
        self._rows = csv.writer(file, lineterminator="\n")
        self._label_ids = label_ids
        self.num_key_frames = 0
        self.num_boxes = 0

    def write(self, item: ScoredKeyFrame) -> None:
        # As text a float32 has the fewest digits that read back as the same float32.
        boxes, scores = item.boxes_N4.astype(str).tolist(), item.scores_NC.astype(str).tolist()
        time = format_time(item.key.time_ms)
        persons = [()] * len(boxes) if item.persons_N is None else [(person,) for person in item.persons_N.tolist()]
        for box, scores_of_box, person in zip(boxes, scores, persons, strict=True):
            for label_id, score in zip(self._label_ids, scores_of_box, strict=True):
                self._rows.writerow((item.key.video, time, *box, label_id, score, *person))
        self.num_key_frames += 1
        self.num_boxes += len(boxes)


@contextmanager
def writing_predictions(path: Path, label_ids: tuple[int, ...]) -> Iterator[PredictionsWriter]:
    """Yield a writer; the file takes its place, or replaces an older one, only when the block ends well."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        yield PredictionsWriter(file, label_ids)
