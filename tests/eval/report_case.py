"""A small result whose class and video have hostile names, with frames to show, for the tests of the report."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

import stal_eval
from stal_data.labels import Label, LabelMap
from tests.data.folders import DATASET_YAML
from tests.eval.brute_force import Found, Truth
from tests.eval.frames import ground_truth_frame, predictions_frame

CLASSES = ("</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&", "walk", "wave", "never seen")
VIDEO = "\"><img src=x onerror=alert(3)> & '$title'"
TITLE = "<h1>predictions</h1>.csv"

LEFT, RIGHT, MIDDLE = (0.1, 0.2, 0.3, 0.8), (0.5, 0.2, 0.7, 0.8), (0.35, 0.4, 0.45, 0.6)


@dataclass(frozen=True)
class Case:
    """A data set folder and the result of predictions for its test split."""

    dataset: Path
    result: stal_eval.Evaluation


def make_case(folder: Path) -> Case:
    truth = [Truth(VIDEO, t, box, label) for t in (1, 2) for box, label in ((LEFT, 1), (LEFT, 3), (RIGHT, 2))]
    found = [
        Found(VIDEO, t, box, label, score + t / 100)
        for t in (1, 2)
        for box, label, score in ((LEFT, 1, 0.2), (MIDDLE, 1, 0.5), (RIGHT, 2, 0.9), (LEFT, 2, 0.3), (RIGHT, 3, 0.6))
    ]
    labels = LabelMap([Label(number, name) for number, name in enumerate(CLASSES, 1)], "hostile labels")
    result = stal_eval.evaluate(predictions_frame(found), ground_truth_frame(truth), labels, capacities="1:60")
    return Case(_write_dataset(folder, labels, truth), result)


def _write_dataset(folder: Path, labels: LabelMap, truth: list[Truth]) -> Path:
    frames = folder / "frames" / VIDEO
    frames.mkdir(parents=True)
    for number in range(1, 76):
        colour = (number, 120, 160)
        Image.fromarray(np.full((180, 320, 3), colour, np.uint8)).save(frames / f"{VIDEO}_{number:06d}.png")
    (folder / "dataset.yaml").write_text(DATASET_YAML)
    (folder / "labels.pbtxt").write_text(labels.to_pbtxt())
    quoted = VIDEO.replace('"', '""')
    rows = "".join(
        f'"{quoted}",{t.timestamp},{",".join(map(str, t.box))},{t.label - 1},1,{25 * t.timestamp},'
        f"{25 * t.timestamp + 25},{t.timestamp}.0,0,0\n"
        for t in truth
    )
    (folder / "test.csv").write_text(rows)
    (folder / "train.csv").write_text(rows)
    (folder / "excluded.csv").write_text("")
    return folder
