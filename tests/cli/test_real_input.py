"""A real street video and a real person detector through the whole system, by the documented script."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from stal_data.clips import key_image_frame
from stal_data.dataset import Dataset

ROOT = Path(__file__).parents[2]
INPUTS = [ROOT / "downloads" / name for name in ("bikes.mp4", "best.pt")]
SECONDS = 10
# Drawn by hand around the cyclist at second 5: x1,y1,x2,y2 in [0,1].
CYCLIST = np.array([0.54, 0.0, 0.77, 0.97])

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not all(path.is_file() for path in INPUTS), reason="run scripts/fetch_real_inputs.sh to fetch the inputs"
    ),
]


def iou(first_4: np.ndarray, second_4: np.ndarray) -> float:
    sides_2 = np.minimum(first_4[2:], second_4[2:]) - np.maximum(first_4[:2], second_4[:2])
    overlap = np.prod(np.clip(sides_2, 0, None))
    return float(overlap / (np.prod(first_4[2:] - first_4[:2]) + np.prod(second_4[2:] - second_4[:2]) - overlap))


def test_the_cyclist_is_boxed_scored_and_drawn(tmp_path: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [str(ROOT / "scripts" / "real_input.sh"), str(tmp_path)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    output = tmp_path / "bikes"
    with (output / "predictions.csv").open(newline="") as file:
        rows = [(int(row[1]), np.array(row[2:6], float), int(row[6]), float(row[7])) for row in csv.reader(file)]
    at_5_s = {tuple(box_4) for second, box_4, _, _ in rows if second == 5}
    assert max(iou(np.array(box), CYCLIST) for box in at_5_s) >= 0.5
    # Every person has a finite score for each of the 12 classes of the run's label map.
    for second, box_4 in {(second, tuple(box_4)) for second, box_4, _, _ in rows}:
        scores = {label: score for s, b_4, label, score in rows if s == second and tuple(b_4) == box_4}
        assert sorted(scores) == list(range(1, 13))
        assert all(0 <= score <= 1 for score in scores.values())
    split = Dataset.open(output / "videos" / "bikes" / "dataset").split("all")
    assert len(split.key_frames) == SECONDS
    with av.open(str(output / "videos" / "bikes" / "bikes-annotated.mp4")) as file:
        drawn = next(frame for frame in file.decode(video=0) if frame.time is not None and frame.time >= 5)
    source_HW3 = split.media.read("bikes", [key_image_frame(split.key_frames[5], split.media.info("bikes"))])[0]
    changed_HW = np.abs(drawn.to_ndarray(format="rgb24").astype(int) - source_HW3).max(axis=2) > 60
    height, width = changed_HW.shape
    # The line of the box's left side, and nothing far from any box.
    left = round(CYCLIST[0] * width)
    assert changed_HW[height // 2, left - 12 : left + 12].any()
    assert not changed_HW[:, : width // 8].any()
