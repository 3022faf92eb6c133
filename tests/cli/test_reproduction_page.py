"""docs/reproduction.md from its first command to its last, on a small stand-in for the published files."""

import csv
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from stal_data.labels import LabelMap
from tests.cli.published_standin import SMALLER, write_published_files
from tests.eval import protocol_reference as reference
from tests.eval.brute_force import Found, Truth
from tests.services.recognizer_process import RecognizerProcess, stal_cli

PAGE = (Path(__file__).parents[2] / "docs" / "reproduction.md").read_text()


def commands() -> Iterator[list[str]]:
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if line and not line.startswith("#"):
                program, *words = shlex.split(line)
                assert program == "stal-cli", line
                yield words


def test_every_command_of_the_page_works_and_gives_the_published_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_published_files(tmp_path, tmp_path / "frames")
    monkeypatch.chdir(tmp_path)
    service: RecognizerProcess | None = None
    try:
        for words in commands():
            smaller = SMALLER.get((words[0], words[1]), [])
            if words[0] == "predict":  # one service for all saves the start of one for each
                service = service or RecognizerProcess(tmp_path / "store", tmp_path).start()
                smaller = ["--recognizer", service.address]
            output = run([word.replace("/data/frames", str(tmp_path / "frames")) for word in words] + smaller)
            if words[0] == "eval":
                assert ("--exact computes them all" in output) == ("--capacities" not in words)
    finally:
        if service is not None:
            service.stop()
    for name, source in (
        ("published-26.62", "predict_epoch_final"),
        ("reproduced-26.62", "detected"),
        ("reproduced-42.28", "truth-7"),
    ):
        assert json.loads(Path(name, "metrics.json").read_text())["mAP_at_50"] == pytest.approx(
            published_mean_ap(Path(f"{source}.csv")), abs=1e-12
        )
    # Rows of the test split less the lost first one: both detections of a key frame once for each of its rows.
    times = Counter((line[0], line[1], line[2]) for line in read("detected.csv"))
    assert {(video, second) for video, second, _ in times} == {
        ("TST1", "0001"),
        ("TST1", "0002"),
        ("TST2", "0001"),
        ("TST2", "0002"),
    }
    assert Counter(times.values()) == {28: 6, 42: 2}
    choose_between_two_sets()


def run(words: list[str]) -> str:
    done = stal_cli(*words)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout


def read(name: str | Path) -> list[list[str]]:
    with Path(name).open(newline="") as file:
        return list(csv.reader(file))


def published_mean_ap(predictions: Path) -> float:
    """What the published evaluator makes of a file at capacity 50."""
    found = [Found(line[0], int(line[1]), box_of(line), int(line[6]), float(line[7])) for line in read(predictions)]
    truth = [Truth(line[0], int(line[1]), box_of(line), int(line[6])) for line in read("chaos_test_t_+1.csv")]
    labels = list(LabelMap.read(Path("list_action.pbtxt")).ids)
    by_label = reference.published(found, truth, labels, (), reference.RANKS["argsort"], 50)
    scored = [ap for ap in by_label.values() if ap is not None]
    return sum(scored) / len(scored)


def box_of(line: list[str]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = map(float, line[2:6])
    return x1, y1, x2, y2


def choose_between_two_sets() -> None:
    """As the page says of a store with features of one checkpoint in float16 and in float32."""
    weights = "store/weights/ckpt-12"
    run(
        f"precompute chaotic --split test --store store --dtype float16 --slowfast {weights}/slowfast.safetensors "
        f"--vit {weights}/vit.safetensors".split()
    )
    words = next(words for words in commands() if words[:2] == ["runs", "import"])
    words = [*words, *SMALLER["runs", "import"], "--run-id", "again"]
    refused = stal_cli(*words)
    assert refused.returncode == 1
    assert re.search(r"several feature sets of the head's backbones: .*dtype: float\d\d / float\d\d", refused.stderr)
    assert "--feature-set ID" in refused.stderr
    assert "`--feature-set ID`" in PAGE
    chosen = re.findall(r"\b[0-9a-f]{16}\b", refused.stderr)[0]
    run([*words, "--feature-set", chosen])
