"""Repeated boxes and scores of three digits, as the published predictions have them: what the published evaluators make
of them. Figures that were measured with NumPy's unstable sort hang on the processor, so only their bounds are tested.
"""

import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import stal_eval
from cli.main import root
from stal_data.labels import LabelMap
from stal_eval.protocol import PROTOCOLS, Protocol
from tests.eval import protocol_reference as reference
from tests.eval.brute_force import Found, Truth

FIXTURES = Path(__file__).parent / "fixtures"
PREDICTIONS, GROUND_TRUTH = FIXTURES / "repeated_tied_pred.csv.gz", FIXTURES / "repeated_tied_gt.csv"
LABEL_MAP = LabelMap.read(FIXTURES / "list_action.pbtxt")
MEASURED = json.loads((FIXTURES / "repeated_tied_ref.json").read_text())
PUBLISHED = PROTOCOLS["published"]
EPSILON = 1e-12


def evaluate(protocol: str | Protocol, **options: object) -> stal_eval.Evaluation:
    return stal_eval.evaluate(PREDICTIONS, GROUND_TRUTH, LABEL_MAP, protocol=protocol, **options)


def read_rows() -> tuple[list[Found], list[Truth]]:
    def fields(line: list[str]) -> tuple[object, ...]:
        return line[0], int(line[1]), tuple(map(float, line[2:6])), int(line[6])

    with gzip.open(PREDICTIONS, "rt") as predicted, GROUND_TRUTH.open() as annotated:
        found = [Found(*fields(line), float(line[7])) for line in csv.reader(predicted)]
        return found, [Truth(*fields(line)) for line in csv.reader(annotated)]


def test_a_stable_sort_gives_the_published_figure_at_every_capacity() -> None:
    measured = MEASURED["published_stable_sort"]
    result = evaluate(replace(PUBLISHED, tie_order="reversed_stable"), capacities=map(int, measured))
    assert dict(zip(map(str, result.capacities), result.mean_ap_C.tolist(), strict=True)) == pytest.approx(
        measured, abs=EPSILON
    )
    one = evaluate(replace(PROTOCOLS["pyslowfast"], tie_order="reversed_stable"))
    assert one.mean_ap == pytest.approx(MEASURED["pyslowfast_stable_sort"], abs=EPSILON)


def test_what_unstable_sorts_gave_elsewhere_lies_within_the_bounds() -> None:
    measured = {int(capacity): mean for capacity, mean in MEASURED["published_default_sort"].items()}
    result = evaluate("published", capacities=measured)
    bounds = result.curve.mean_bounds_C()
    assert bounds is not None
    for capacity, lower, upper in zip(result.capacities, *bounds, strict=True):
        assert lower - EPSILON <= measured[capacity] <= upper + EPSILON, capacity
    for name in ("pyslowfast", "mmaction2"):
        bounds = evaluate(name).curve.mean_bounds_C()
        assert bounds is not None
        assert bounds[0] <= MEASURED[f"{name}_default_sort"] <= bounds[1]


@pytest.mark.parametrize("capacity", [50, 0])
def test_the_same_sort_calls_give_the_same_figure(capacity: int) -> None:
    found, truth = read_rows()
    expected = reference.published(found, truth, list(LABEL_MAP.ids), (), reference.RANKS["argsort"], capacity)
    result = evaluate("published", capacities=[capacity])  # sorted again, on the same machine
    assert list(result.per_class().values()) == [
        None if ap is None else pytest.approx(ap, abs=EPSILON) for ap in expected.values()
    ]


def test_a_sweep_is_exact_where_it_reports(tmp_path: Path) -> None:
    sweep = evaluate("published", capacities="40:90")
    assert not sweep.curve_is_exact
    assert not sweep.metrics()["mAP_is_exact"]
    single = evaluate("published", capacities=[sweep.best.capacity, 50])
    assert single.curve_is_exact
    assert sweep.best.mean_ap == sweep.mean_ap == single.mean_ap_C[single.capacities.index(sweep.best.capacity)]
    assert sweep.mean_ap_at_50 == single.mean_ap_at_50 == single.mean_ap_C[single.capacities.index(50)]
    for capacity, mean in ((sweep.best.capacity, sweep.best.mean_ap), (50, sweep.mean_ap_at_50)):
        assert sweep.mean_ap_C[sweep.capacities.index(capacity)] == mean
    few = evaluate("published", capacities=[43, 45])
    few.write(tmp_path)
    borrowed = evaluate("published", capacities="40:90", capacity_from=tmp_path / "metrics.json")
    place = borrowed.capacities.index(few.best.capacity)
    assert borrowed.mean_ap == borrowed.mean_ap_C[place] == few.best.mean_ap
    bounds = sweep.curve.mean_bounds_C()
    assert bounds is not None
    assert (bounds[0] <= sweep.mean_ap_C).all()
    assert (sweep.mean_ap_C <= bounds[1]).all()
    metrics = sweep.metrics()
    for name, ap in sweep.per_class().items():
        curve = metrics["precision_recall"]["chosen"][name]
        assert (curve is None) == (ap is None)
        if ap is not None:
            area = np.diff(curve["recall"], prepend=0.0) @ curve["precision"]
            assert area == pytest.approx(ap, abs=EPSILON)
    found = metrics["errors"]["chosen"]["overall"]
    assert found["ground_truth"]["found"] == found["predictions"]["correct"] > 0


def test_a_sweep_is_exact_everywhere_on_request() -> None:
    capacities = [*range(40, 60), 5000, 0]  # the last two keep all rows
    sweep = evaluate("published", capacities=capacities, exact=True)
    assert sweep.curve_is_exact
    few = evaluate("published", capacities=[*range(40, 50), 0])
    assert sweep.mean_ap_C.tolist()[:10] == few.mean_ap_C.tolist()[:-1]
    assert sweep.mean_ap_C.tolist()[-2:] == [few.mean_ap_C[-1]] * 2
    assert sweep.best.mean_ap == sweep.mean_ap_C.max()


def test_the_command_shows_how_far_an_exact_sweep_is(tmp_path: Path) -> None:
    options = ["--protocol", "published", "--capacities", "40:60", "--exact", "--output", tmp_path]
    files = [
        "--predictions",
        PREDICTIONS,
        "--ground-truth",
        GROUND_TRUTH,
        "--label-map",
        FIXTURES / "list_action.pbtxt",
    ]
    result = CliRunner().invoke(root, ["eval", *map(str, [*files, *options])], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "exact sweep: 20/20 capacities" in result.stderr
    assert json.loads((tmp_path / "metrics.json").read_text())["mAP_is_exact"]
