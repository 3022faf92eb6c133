"""What a result tells beside mAP: counts, exclusions, digests, warnings, metrics.json and the command's table."""

import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

import stal_eval
from cli.main import root
from stal_data.errors import InputError, StalError
from stal_data.keyframes import KeyFrame
from stal_data.labels import LabelMap
from tests.eval.brute_force import Box, Found, Truth
from tests.eval.frames import LABEL_MAP, ground_truth_frame, predictions_frame

FIXTURES = Path(__file__).parent / "fixtures"
PREDICTIONS = FIXTURES / "small_untied_pred.csv.gz"
GROUND_TRUTH = FIXTURES / "small_untied_gt.csv"
LABELS = FIXTURES / "list_action.pbtxt"
ARGUMENTS = ["--predictions", PREDICTIONS, "--ground-truth", GROUND_TRUTH, "--label-map", LABELS]
BOX: Box = (0.0, 0.0, 0.5, 0.5)


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(root, ["eval", *map(str, arguments)])
    if isinstance(result.exception, StalError):
        return 1, str(result.exception)
    return result.exit_code, result.output


def test_exclusions_leave_out_key_frames_of_both_sides(tmp_path: Path) -> None:
    found = predictions_frame([Found("a", 0, BOX, 1, 0.5), Found("a", 1, BOX, 1, 0.9), Found("a", 1, BOX, 3, 0.9)])
    truth = ground_truth_frame([Truth("a", 0, BOX, 1), Truth("a", 1, (0.5, 0.5, 1, 1), 1), Truth("a", 0, BOX, 3)])
    assert stal_eval.evaluate(found, truth, LABEL_MAP).best.mean_ap == 0.25
    file = tmp_path / "exclusions.csv"
    file.write_text("a,0001\nb,0007\n")
    result = stal_eval.evaluate(found, truth, LABEL_MAP, exclusions=file)
    assert result.best.mean_ap == 1.0
    counts = result.counts
    assert (counts.prediction_rows, counts.excluded_prediction_rows, counts.scored_prediction_rows) == (3, 2, 1)
    assert (counts.ground_truth_rows, counts.excluded_ground_truth_rows, counts.scored_ground_truth_rows) == (3, 1, 1)
    assert (counts.listed_exclusions, counts.excluded_key_frames) == (2, 1)
    assert counts.ground_truth_rows_outside_label_map == 1
    assert result.digests["exclusions"] == hashlib.sha256(file.read_bytes()).hexdigest()
    in_memory = stal_eval.evaluate(found, truth, LABEL_MAP, exclusions=[KeyFrame("a", 1000), KeyFrame("b", 7000)])
    assert in_memory.counts == counts
    assert in_memory.mean_ap_C.tolist() == result.mean_ap_C.tolist()


def test_counts_add_up() -> None:
    found = [
        Found("a", 0, BOX, 1, 0.5),
        Found("a", 0, BOX, 2, 0.5),
        Found("b", 0, BOX, 1, 0.5),
        Found("c", 0, BOX, 3, 1.0),
    ]
    truth = [Truth("a", 0, BOX, 1), Truth("d", 0, BOX, 1), Truth("d", 0, BOX, 2)]
    counts = stal_eval.evaluate(predictions_frame(found), ground_truth_frame(truth), LABEL_MAP).counts
    assert counts.key_frames == 3
    assert counts.key_frames_with_predictions == 2
    assert counts.key_frames_with_ground_truth == 2
    assert counts.key_frames_with_both == 1
    assert counts.prediction_rows_without_ground_truth == 1
    assert counts.prediction_rows_outside_label_map == 1
    assert counts.rows_of_longest_key_frame == 2


def test_no_common_key_frame_is_said() -> None:
    found = predictions_frame([Found("a", 0, BOX, 1, 0.5)])
    result = stal_eval.evaluate(found, ground_truth_frame([Truth("a", 1, BOX, 1)]), LABEL_MAP)
    assert "share no key frame" in result.warnings[0]


def test_command_writes_metrics_and_prints_them(tmp_path: Path) -> None:
    code, output = run(*ARGUMENTS, "--output", tmp_path / "results")
    assert code == 0, output
    metrics = json.loads((tmp_path / "results" / "metrics.json").read_text())
    assert metrics["capacities"] == list(range(50, 2200))
    assert len(metrics["mAP"]) == 2150
    best = metrics["best"]
    assert best["mAP"] == max(metrics["mAP"])
    assert best["capacity"] == metrics["capacities"][metrics["mAP"].index(best["mAP"])]
    assert metrics["mAP_at_50"] == metrics["mAP"][0]
    classes = metrics["classes"]
    assert (classes["in_label_map"], classes["in_mean"]) == (50, 34)
    assert {name for name, ap in metrics["per_class"].items() if ap is None} == set(classes["without_ground_truth"])
    scored = [ap for ap in metrics["per_class"].values() if ap is not None]
    assert sum(scored) / len(scored) == pytest.approx(best["mAP"], abs=1e-12)
    assert metrics["class_counts"]["arresting"] == {"ground_truth": 4, "predictions": 239}
    assert metrics["counts"]["prediction_rows"] == 11950
    assert metrics["digests"] == {
        "predictions": hashlib.sha256(PREDICTIONS.read_bytes()).hexdigest(),
        "ground_truth": hashlib.sha256(GROUND_TRUTH.read_bytes()).hexdigest(),
        "label_map": LabelMap.read(LABELS).digest,
        "exclusions": None,
    }
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == ["matches.npz", "metrics.json"]
    for text in (f"{100 * best['mAP']:.2f}", f"{100 * metrics['mAP_at_50']:.2f}", "34 of 50", "burning/setting fire"):
        assert text in output


def test_key_frames_within_a_second_are_scored_apart(tmp_path: Path) -> None:
    """Five key frames a second instead of one: every figure stays as it was."""

    def at_fifths(source: bytes, name: str) -> Path:
        rows = [line.split(",") for line in source.decode().splitlines()]
        lines = [",".join([video, repr(900 + int(time) * 0.2), *rest]) for video, time, *rest in rows]
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n")
        return path

    predictions = at_fifths(gzip.decompress(PREDICTIONS.read_bytes()), "p.csv")
    truth = at_fifths(GROUND_TRUTH.read_bytes(), "g.csv")
    results = []
    for files in (
        ["--predictions", PREDICTIONS, "--ground-truth", GROUND_TRUTH],
        ["--predictions", predictions, "--ground-truth", truth],
    ):
        folder = tmp_path / "results" / files[1].stem
        code, output = run(*files, "--label-map", LABELS, "--capacities", "50:60", "--output", folder)
        assert code == 0, output
        results.append(json.loads((folder / "metrics.json").read_text()))
    for name in ("mAP", "per_class", "counts", "ties"):
        assert results[0][name] == results[1][name]
    assert results[0]["counts"]["key_frames"] == 60


def test_a_prediction_at_another_fraction_of_the_second_is_another_key_frame(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("a,0001.2,.1,.1,.5,.5,1,.9\na,1.4,.1,.1,.5,.5,1,.8\n")
    (tmp_path / "g.csv").write_text("a,1.200,.1,.1,.5,.5,1,0\na,1,.1,.1,.5,.5,1,0\n")
    (tmp_path / "e.csv").write_text("a,1\na,0001.40\n")
    words = ["--predictions", tmp_path / "p.csv", "--ground-truth", tmp_path / "g.csv", "--label-map", LABELS]
    metrics = []
    for more in ([], ["--exclusions", tmp_path / "e.csv"]):
        code, output = run(*words, *more, "--output", tmp_path / "results")
        assert code == 0, output
        metrics.append(json.loads((tmp_path / "results" / "metrics.json").read_text()))
    assert [found["counts"]["key_frames"] for found in metrics] == [3, 1]
    assert [found["best"]["mAP"] for found in metrics] == [0.5, 1.0]


def test_a_report_of_an_earlier_result_does_not_stay_beside_a_new_one(tmp_path: Path) -> None:
    assert run(*ARGUMENTS, "--capacities", "50", "--report", "--output", tmp_path)[0] == 0
    assert (tmp_path / "report.html").exists()
    code, output = run(*ARGUMENTS, "--capacities", "60", "--output", tmp_path)
    assert code == 0
    assert not (tmp_path / "report.html").exists()
    assert "--report writes it anew" in " ".join(output.split())


def test_a_page_of_the_users_own_stays_beside_a_result(tmp_path: Path) -> None:
    own = tmp_path / "report.html"
    own.write_text("<title>my thesis</title>")
    assert run(*ARGUMENTS, "--capacities", "50", "--output", tmp_path)[0] == 0
    assert own.read_text() == "<title>my thesis</title>"


def test_threads_do_not_change_a_figure(tmp_path: Path) -> None:
    tied = tmp_path / "tied.csv"  # one digit of the score: most rows tie
    with gzip.open(PREDICTIONS, "rt") as file:
        tied.write_text("".join(re.sub(r"(,0\.\d)\d*$", r"\1", line.rstrip()) + "\n" for line in file))

    def figures(threads: int) -> bytes:
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS")
        command = [sys.executable, "-m", "cli.main", "eval", "--predictions", tied, *ARGUMENTS[2:]]
        folder = tmp_path / str(threads)
        subprocess.run(
            [*map(str, command), "--output", folder],
            env={**os.environ, **dict.fromkeys(names, str(threads))},
            check=True,
            capture_output=True,
        )
        return (folder / "metrics.json").read_bytes()

    alone = figures(1)
    assert json.loads(alone)["ties"]["tied_rows_share"] > 0.5
    assert figures(4) == alone
    label_map = LabelMap.read(LABELS)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: stal_eval.evaluate(tied, GROUND_TRUTH, label_map), range(4)))
    assert {result.mean_ap_C.tobytes() for result in results} == {results[0].mean_ap_C.tobytes()}
    assert results[0].mean_ap_C.tolist() == json.loads(alone)["mAP"]


def test_capacity_list_and_exclusions_of_the_command(tmp_path: Path) -> None:
    exclusions = tmp_path / "exclusions.csv"
    exclusions.write_text("VID0000,0001\n")
    code, output = run(
        *ARGUMENTS, "--capacities", "1,100,0", "--exclusions", exclusions, "--output", tmp_path / "results"
    )
    assert code == 0, output
    metrics = json.loads((tmp_path / "results" / "metrics.json").read_text())
    assert metrics["capacities"] == [1, 100, 0]
    assert metrics["counts"]["excluded_key_frames"] == 1
    assert metrics["mAP_at_50"] not in metrics["mAP"]


def test_a_refused_file_leaves_the_previous_metrics_alone(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("before")
    bad = tmp_path / "bad.csv"
    bad.write_text("a,1,.1,.1,.5,.5,1,nan\n")
    code, message = run("--predictions", bad, *ARGUMENTS[2:], "--output", tmp_path)
    assert code == 1
    assert "bad.csv, line 1: the score is 'nan'" in message
    assert (tmp_path / "metrics.json").read_text() == "before"


def test_wrong_folders_are_refused_before_anything_is_scored(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    code, message = run(*ARGUMENTS, "--output", file)
    assert (code, f"output is {file}, but no folder can be made there" in message) == (1, True)
    code, message = run(*ARGUMENTS, "--output", tmp_path / "results", "--frames", tmp_path)
    assert (code, "has no dataset.yaml" in message) == (1, True)
    assert list(tmp_path.iterdir()) == [file]


def test_a_capacity_that_was_not_swept_is_refused() -> None:
    result = stal_eval.evaluate(PREDICTIONS, GROUND_TRUTH, LABELS, capacities=[50])
    with pytest.raises(InputError, match="capacity 60 is not in this sweep"):
        result.per_class(60)
