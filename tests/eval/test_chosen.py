"""The reported capacity: where it was chosen, and that it can come from another split."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import stal_eval
from cli.main import root
from stal_data.errors import InputError, NotFoundError
from tests.eval.brute_force import Box, Found, Truth
from tests.eval.frames import LABEL_MAP, ground_truth_frame, predictions_frame

BOX: Box = (0.0, 0.0, 0.5, 0.5)
ELSEWHERE: Box = (0.5, 0.5, 1.0, 1.0)
FIXTURES = Path(__file__).parent / "fixtures"


def split(first_right: int, video: str) -> tuple[list[Found], list[Truth]]:
    """Rows of which only the one at position `first_right` (from 0) is right, so its capacity is the best."""
    rows = [Found(video, 0, ELSEWHERE, 1, 0.9 - position / 100) for position in range(8)]
    rows[first_right] = Found(video, 0, BOX, 1, rows[first_right].score)
    return rows, [Truth(video, 0, BOX, 1)]


def evaluate(rows: tuple[list[Found], list[Truth]], **options: object) -> stal_eval.Evaluation:
    found, truth = rows
    return stal_eval.evaluate(predictions_frame(found), ground_truth_frame(truth), LABEL_MAP, **options)


def test_a_capacity_chosen_on_the_scored_split_is_said_aloud() -> None:
    chosen = evaluate(split(4, "a"), capacities="2:9", split="val", dataset="mine").metrics()["chosen"]
    assert chosen["capacity"] == 5
    assert chosen["chosen_on"]["is_scored_split"] is True
    assert (chosen["chosen_on"]["split"], chosen["chosen_on"]["dataset"]) == ("val", "mine")
    assert "chosen on the scored split itself (val of mine), so this mAP is too optimistic" in chosen["note"]


def test_a_capacity_from_another_split_is_applied_and_both_splits_are_named(tmp_path: Path) -> None:
    other = evaluate(split(2, "v"), capacities="2:9", split="val", dataset="mine")
    assert other.best.capacity == 3
    metrics_file = other.write(tmp_path)
    result = evaluate(split(4, "a"), capacities="2:9", capacity_from=metrics_file, split="test")
    assert result.best.capacity == 5
    assert (result.choice.capacity, result.mean_ap) == (3, 0.0)
    assert result.per_class() == {"walk": 0.0, "wave": None, "watch": None}
    metrics = result.metrics()
    chosen = metrics["chosen"]
    assert (chosen["capacity"], chosen["mAP"]) == (3, 0.0)
    assert chosen["chosen_on"] == {
        "split": "val",
        "dataset": "mine",
        "ground_truth": other.digests["ground_truth"],
        "predictions": other.digests["predictions"],
        "is_scored_split": False,
    }
    assert chosen["note"] == "chosen on val of mine, applied to test"
    assert metrics["best"]["capacity"] == 5
    # The origin stays the same when a result that borrowed its capacity is borrowed from.
    again = evaluate(split(3, "b"), capacity_from=result.write(tmp_path / "second"))
    assert again.choice == result.choice


def test_a_capacity_from_a_file_on_the_same_ground_truth_is_said_aloud(tmp_path: Path) -> None:
    rows = split(2, "v")
    metrics_file = evaluate(rows, capacities="2:9").write(tmp_path)
    found = [Found("v", 0, BOX, 1, 0.5)]
    result = evaluate((found, rows[1]), capacity_from=metrics_file)
    assert "chosen on the scored split itself" in result.metrics()["chosen"]["note"]


def test_a_single_capacity_is_given_not_chosen(tmp_path: Path) -> None:
    result = evaluate(split(2, "v"), capacities=[4])
    assert result.metrics()["chosen"]["chosen_on"] is None
    borrowed = evaluate(split(4, "a"), capacity_from=result.write(tmp_path))
    assert borrowed.metrics()["chosen"]["note"] == "given, not chosen by its mAP"


def test_a_borrowed_capacity_need_not_be_in_the_sweep(tmp_path: Path) -> None:
    metrics_file = evaluate(split(2, "v"), capacities="2:5").write(tmp_path)
    result = evaluate(split(1, "a"), capacities=[50, 60], capacity_from=metrics_file)
    assert (result.choice.capacity, result.mean_ap) == (3, 0.5)
    assert result.capacities == (50, 60)


def test_a_capacity_chosen_by_other_rules_is_said_aloud(tmp_path: Path) -> None:
    metrics_file = evaluate(split(2, "v"), capacities="2:9", iou=0.4).write(tmp_path)
    result = evaluate(split(4, "a"), capacity_from=metrics_file, protocol="ava")
    assert [text for text in result.warnings if text.startswith("capacity-from")] == [
        "capacity-from: the capacity 3 was chosen by other rules: cut_ties (file_order there, heap here), "
        "empty_boxes (wrong there, left_out here), iou (0.4 there, 0.5 here), tie_order (file there, argsort here)."
    ]
    same = evaluate(split(4, "a"), capacity_from=metrics_file, iou=0.4, capacities="50")
    assert not [text for text in same.warnings if text.startswith("capacity-from")]


def test_files_that_are_no_metrics_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"capacity-from: the file .*nowhere\.json does not exist"):
        evaluate(split(1, "a"), capacity_from=tmp_path / "nowhere.json")
    bad = tmp_path / "bad.json"
    for text, message in (
        ("{", "cannot be read as JSON"),
        ("[]", "no field 'chosen': give a metrics.json"),
        ('{"best": {"capacity": 50}}', "no field 'chosen'"),
        ('{"chosen": {"capacity": "x", "chosen_on": null}}', "must be a whole number"),
        ('{"chosen": {"capacity": 5, "chosen_on": null}}', "no field 'protocol' under 'chosen'"),
    ):
        bad.write_text(text)
        with pytest.raises(InputError, match=message):
            evaluate(split(1, "a"), capacity_from=bad)


def test_the_command_prints_where_the_capacity_was_chosen(tmp_path: Path) -> None:
    arguments = ["eval", "--predictions", FIXTURES / "small_untied_pred.csv.gz"]
    arguments += ["--ground-truth", FIXTURES / "small_untied_gt.csv", "--label-map", FIXTURES / "list_action.pbtxt"]

    def run(*more: object) -> str:
        result = CliRunner().invoke(root, [str(item) for item in (*arguments, *more)], env={"COLUMNS": "160"})
        assert result.exit_code == 0, result.output
        return result.output

    output = run("--split", "val", "--dataset", "small", "--output", tmp_path / "val")
    assert "chosen on the scored split itself (val of small), so this mAP is too optimistic" in output
    metrics_file = tmp_path / "val" / "metrics.json"
    content = json.loads(metrics_file.read_text())
    content["chosen"]["chosen_on"]["ground_truth"] = "another"
    metrics_file.write_text(json.dumps(content))
    output = run("--split", "test", "--capacity-from", metrics_file, "--output", tmp_path / "test")
    assert "chosen on val of small, applied to test" in output
