"""`--json`: the same facts as the text, for programs."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cli.main import root
from tests.cli.inference_store import make_store, train


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a data set `data`, of its store with the runs `first` and `second`, and of weights."""
    folder = tmp_path_factory.mktemp("made")
    train(make_store(folder), "second", seed=1)
    return folder


def printed(*words: object, code: int = 0) -> Any:
    result = CliRunner().invoke(root, [*map(str, words), "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_a_data_set(made: Path) -> None:
    found = printed("dataset", "info", made / "data")
    assert (found["name"], found["media"]["videos"]) == ("small", 2)
    assert [(split["split"], split["key_frames"]) for split in found["splits"]] == [("train", 4)]
    assert printed("dataset", "validate", made / "data")["findings"] == []
    annotations = next((made / "data").rglob("*.csv"))
    whole = annotations.read_text()
    try:
        annotations.write_text(whole.replace("0.1", "7.1", 1))
        findings = printed("dataset", "validate", made / "data", code=1)["findings"]
        assert ("error", str(annotations), 1) in [(item["severity"], item["path"], item["line"]) for item in findings]
    finally:
        annotations.write_text(whole)


def test_a_cache(made: Path) -> None:
    (features,) = printed("cache", "ls", made / "store")["feature_sets"]
    assert (features["split"], features["num_done"], features["spec"]["view"]) == ("train", 4, "identity")
    found = printed("cache", "verify", made / "store")
    assert found["problems"] == []
    assert any(line.startswith("small/train/") for line in found["checked"])
    (path,) = (made / "store" / "features" / "small" / "train").glob("[!.]*")
    assert printed("cache", "diff", path, path)["equal"] == 4


def test_runs_and_jobs(made: Path) -> None:
    runs = printed("runs", "list", "--store", made / "store")
    assert [run["run_id"] for run in runs] == ["first", "second"]
    assert runs[0]["epochs_done"] == 1
    compared = printed("runs", "compare", "first", "second", "--store", made / "store")
    assert compared["differences"]["training.seed"] == ["0", "1"]
    assert printed("jobs", "list", "--store", made / "store") == []


def test_weights_and_the_machine(made: Path) -> None:
    found = printed("weights", "info", made / "slowfast.safetensors")
    assert found["facts"]["kind"] == "slowfast backbone"
    assert all(part["numbers"] for part in found["parts"].values())
    result = CliRunner().invoke(root, ["doctor", "--json", "--store", str(made / "store")])
    checked = json.loads(result.stdout)
    assert "writable" in checked["checks"]["store"]
    assert result.exit_code == (1 if checked["problems"] else 0)
