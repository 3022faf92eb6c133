"""Pictures: they are written, show what they should (read back from the SVG) and refuse what they cannot draw."""

import re
from pathlib import Path

import pytest
from PIL import Image

import stal_eval
from stal_data.errors import InputError
from stal_eval.figures import plot_capacity_curves, plot_per_class

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="module")
def metrics() -> dict[str, object]:
    files = (FIXTURES / name for name in ("small_untied_pred.csv.gz", "small_untied_gt.csv", "list_action.pbtxt"))
    return stal_eval.evaluate(*files).metrics()


def texts(path: Path) -> str:
    """The texts of an SVG: matplotlib draws letters as shapes and keeps the text in a comment."""
    return "\n".join(re.findall(r"<!-- (.*?) -->", path.read_text()))


def test_capacity_curves_name_each_run_its_best_and_the_axes(metrics: dict[str, object], tmp_path: Path) -> None:
    plot_capacity_curves({"first run": metrics, "second run": metrics}, tmp_path / "made" / "curves.svg")
    shown = texts(tmp_path / "made" / "curves.svg")
    assert "first run: best 54.3 at 143, 54.0 at 50" in shown
    assert "second run" in shown
    assert "capacity (best-scored rows kept of each key frame)" in shown
    assert "mAP at IoU 0.5 (points of 100)" in shown


def test_per_class_bars_stand_in_their_groups_and_name_the_classes_without_ground_truth(
    metrics: dict[str, object], tmp_path: Path
) -> None:
    groups = {"walking": "MOVES", "watching": "LOOKS"}
    plot_per_class({"a": metrics, "b": metrics}, tmp_path / "bars.svg", groups=groups)
    shown = texts(tmp_path / "bars.svg")
    for text in ("walking", "watching", "MOVES", "LOOKS", "a (mAP 54.3)", "AP at IoU 0.5"):
        assert text in shown
    assert "no ground truth: carrying, dancing" in shown
    assert "dancing" not in shown.split("no ground truth")[0]


def test_png_is_written_and_any_other_ending_refused(metrics: dict[str, object], tmp_path: Path) -> None:
    plot_capacity_curves({"a": metrics}, tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        assert picture.size == (1200, 675)
    with pytest.raises(InputError, match=r"ends in '\.gif', but must end in \.png or \.svg"):
        plot_per_class({"a": metrics}, tmp_path / "curve.gif")
    with pytest.raises(InputError, match="no run to draw"):
        plot_capacity_curves({}, tmp_path / "none.png")
