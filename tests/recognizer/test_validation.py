"""The small mAP that training reports equals the evaluator's on ground-truth boxes without a cap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recognizer_svc.training.validation import average_precision, mean_average_precision
from stal_data.labels import Label, LabelMap
from stal_eval import evaluate


def slow_average_precision(scores, positive):
    """By definition: area under the precision envelope, point by point."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    points, hits = [], 0
    for rank, index in enumerate(order, start=1):
        hits += bool(positive[index])
        points.append((hits / sum(positive), hits / rank))
    area, last = 0.0, 0.0
    for i, (recall, _) in enumerate(points):
        area += (recall - last) * max(precision for _, precision in points[i:])
        last = recall
    return area


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.9]), st.booleans()), min_size=1, max_size=30))
def test_average_precision_is_the_area_under_the_envelope(rows):
    scores = np.array([score for score, _ in rows], dtype=np.float32)
    positive = np.array([hit for _, hit in rows])
    if positive.any():
        assert average_precision(scores, positive) == pytest.approx(slow_average_precision(scores, positive.tolist()))


def test_classes_without_positives_do_not_count():
    scores = np.array([[0.9, 0.1], [0.1, 0.8]], dtype=np.float32)
    assert mean_average_precision(scores, np.array([[1, 0], [0, 0]], dtype=np.float32)) == 1.0
    assert mean_average_precision(scores, np.zeros((2, 2), dtype=np.float32)) is None


def test_equals_the_evaluator(tmp_path):
    random = np.random.default_rng(0)
    places = np.array([[0.0, 0.0, 0.2, 0.9], [0.3, 0.1, 0.5, 0.8], [0.6, 0.2, 0.9, 0.9]])
    label_map = LabelMap([Label(id_, f"action {id_}") for id_ in (1, 2, 3, 5)])
    scores, targets, predicted, truth = [], [], [], []
    for key in range(40):
        for person in range(random.integers(1, 4)):
            row, labels = random.random(4).astype(np.float32), random.random(4) < 0.4
            scores.append(row)
            targets.append(labels)
            box = ",".join(map(str, places[person]))
            for label_id, score, performs in zip(label_map.ids, row, labels, strict=True):
                predicted.append(f"v{key % 3},{key:04d},{box},{label_id},{float(score)!r}\n")
                if performs:
                    truth.append(f"v{key % 3},{key:04d},{box},{label_id},{person}\n")
    (tmp_path / "p.csv").write_text("".join(predicted))
    (tmp_path / "g.csv").write_text("".join(truth))
    found = mean_average_precision(np.array(scores), np.array(targets, dtype=np.float32))
    # 3 boxes times 4 classes: a capacity of 12 keeps every row.
    expected = evaluate(tmp_path / "p.csv", tmp_path / "g.csv", label_map, capacities=range(12, 13))
    assert found == pytest.approx(expected.metrics()["best"]["mAP"], abs=1e-12)
