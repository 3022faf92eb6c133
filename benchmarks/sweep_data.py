"""Predictions and ground truth of any size, as CSV files: what the sweep's benchmark reads."""

from pathlib import Path

import numpy as np

CLASSES = 50
KEY_FRAMES_PER_VIDEO = 40


def write_files(folder: Path, *, rows: int, key_frames: int, rounded: bool, seed: int = 0) -> tuple[Path, Path]:
    """Write about `rows` prediction rows and a twenty-fifth as much ground truth; return both paths.

    A key frame has people with a ground-truth box, a jittered detection and a score for every class each; some
    detections are nobody. rounded: scores with three decimals, which tie by the thousand; else nine.
    """
    rng = np.random.default_rng(seed)
    people = rows // CLASSES
    key_N = np.sort(np.concatenate([np.arange(key_frames), rng.integers(0, key_frames, people - key_frames)]))
    size_N2 = rng.uniform(0.05, 0.3, (people, 2))
    corner_N2 = rng.uniform(0, 1, (people, 2)) * (1 - size_N2)
    true_N4 = np.hstack([corner_N2, corner_N2 + size_N2])
    found_N4 = (true_N4 + rng.normal(0, 0.08, (people, 4)) * np.tile(size_N2, 2)).clip(0, 1)
    found_N4 = np.hstack([np.minimum(found_N4[:, :2], found_N4[:, 2:]), np.maximum(found_N4[:, :2], found_N4[:, 2:])])
    prior = rng.dirichlet(np.full(CLASSES, 0.5))
    acts_NK = rng.random((people, CLASSES)) < np.minimum(prior * 2.6, 0.9)
    acts_NK[rng.random(people) < 0.2] = False
    score_NK = 1 / (1 + np.exp(-(rng.normal(-4, 2, (people, CLASSES)) + 3 * acts_NK + np.log(prior * CLASSES + 0.05))))
    predictions, truth = folder / "predictions.csv", folder / "ground_truth.csv"
    digits = 3 if rounded else 9
    with predictions.open("w") as predicted, truth.open("w") as annotated:
        for person in range(people):
            key = int(key_N[person])
            start = f"video{key // KEY_FRAMES_PER_VIDEO:05d},{key % KEY_FRAMES_PER_VIDEO:04d}"
            box = ",".join(f"{value:.3f}" for value in true_N4[person])
            for label in np.flatnonzero(acts_NK[person]):
                annotated.write(f"{start},{box},{label + 1},{person}\n")
            box = ",".join(f"{value:.3f}" for value in found_N4[person])
            predicted.write(
                "".join(
                    f"{start},{box},{label},{score:.{digits}f}\n"
                    for label, score in enumerate(score_NK[person].tolist(), 1)
                )
            )
    return predictions, truth
