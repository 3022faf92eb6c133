"""Five key frames a second, as AVA's format may have them, through all commands from annotations to a score."""

import csv
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from cache.feature_store import list_feature_sets, open_feature_set
from cache.proposal_store import open_proposals
from cache.store import Store
from cli.workflow.demo.pictures import draw_key_frame
from cli.workflow.predictions import read_predictions
from stal_data.dataset import Dataset
from stal_data.keyframes import KeyFrame
from tests.cli.inference_store import stal_cli, train
from tests.data.videos import numbered_picture
from tests.detector.replica import ReplicaService
from tests.services.echo import in_a_thread

DATASET = """\
name: small
format: ava
label_map: labels.pbtxt
media: {kind: frames, root: frames, start_s: 900}
splits:
  train: {annotations: train.csv, exclusions: excluded.csv}
"""
LABELS = "".join(f'item {{ name: "{name}" id: {label} }}\n' for label, name in enumerate(("stand", "walk"), 1))
TIMES = ("0900.2", "0900.4", "0900.6", "0900.8", "0901", "0901.2")
EXCLUDED = "0900.6"
TINY = ("--slowfast", "random:0", "--slowfast-preset", "tiny")


def write_dataset(root: Path) -> Path:
    """Videos of 50 frames; in each key frame one person, who does one thing or the other."""
    rows = []
    for video in ("v0", "v1"):
        (root / "frames" / video).mkdir(parents=True)
        for number in range(1, 51):
            Image.fromarray(numbered_picture(number)).save(root / "frames" / video / f"{video}_{number:06d}.png")
        rows += [f"{video},{time},0,0,0.5,0.5,{1 + number % 2},0" for number, time in enumerate(TIMES)]
    (root / "dataset.yaml").write_text(DATASET)
    (root / "labels.pbtxt").write_text(LABELS)
    (root / "train.csv").write_text("\n".join(rows) + "\n")
    (root / "excluded.csv").write_text("".join(f"{video},{EXCLUDED}0\n" for video in ("v0", "v1")))
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Store]:
    """The data set, and a store with its proposals and features and a run `first` that was trained on them."""
    folder = tmp_path_factory.mktemp("fifths")
    data, store = write_dataset(folder / "data"), folder / "store"
    with in_a_thread(ReplicaService()) as port:
        stal_cli("detect", data, "--split", "train", "--store", store, "--detector", f"127.0.0.1:{port}")
    stal_cli("precompute", data, "--split", "train", "--store", store, *TINY)
    train(store, "first", seed=0)
    return data, Store.open(store)


def kept() -> tuple[KeyFrame, ...]:
    times_ms = (900_200, 900_400, 900_800, 901_000, 901_200)
    return tuple(KeyFrame(video, time_ms) for video in ("v0", "v1") for time_ms in times_ms)


def test_the_data_set_is_valid_and_its_times_are_told_apart(made: tuple[Path, Store], tmp_path: Path) -> None:
    data, _ = made
    output = stal_cli("dataset", "validate", data, "--decode", "--json")
    found = json.loads(output[output.index("{") :])  # after the lines of progress
    assert found["findings"] == []
    assert (found["splits"][0]["key_frames"], found["splits"][0]["excluded"]) == (10, 2)
    stal_cli("dataset", "ground-truth", data, "--split", "train", "--output", tmp_path / "gt.csv")
    with (tmp_path / "gt.csv").open(newline="") as file:
        assert [row[1] for row in csv.reader(file)] == [time for time in TIMES if time != EXCLUDED] * 2


def test_proposals_and_features_are_of_each_key_frame(made: tuple[Path, Store]) -> None:
    _, store = made
    assert open_proposals(store, "small", "train").key_frames == kept()
    features = open_feature_set(store, "small", "train")
    assert features.key_frames == kept()
    # 0.2 s are 5 frames; frame 1 is at second 900.
    assert features.index.windows_K2[:, 1].tolist() == [38, 43, 51, 51, 51] * 2
    assert len(set(features.index.sources_K.tolist())) > 2
    assert len(list_feature_sets(store)) == 1


def test_predictions_name_each_key_frame_and_score_against_the_ground_truth(
    made: tuple[Path, Store], tmp_path: Path
) -> None:
    data, store = made
    output, truth = tmp_path / "predictions.csv", tmp_path / "gt.csv"
    words = ["--run", "first", "--dataset", "small", "--split", "train", "--store", store.root, "--output", output]
    stal_cli("predict", *words, "--boxes", "proposals:person")
    with output.open(newline="") as file:
        rows = list(csv.reader(file))
    assert list(dict.fromkeys((row[0], row[1]) for row in rows)) == [
        (video, time) for video in ("v0", "v1") for time in TIMES if time != EXCLUDED
    ]
    stal_cli("dataset", "ground-truth", data, "--split", "train", "--output", truth)
    words = ["--predictions", output, "--ground-truth", truth, "--label-map", data / "labels.pbtxt"]
    words += ["--exclusions", data / "excluded.csv", "--frames", data, "--output", tmp_path / "results"]
    stal_cli("eval", *words)
    metrics = json.loads((tmp_path / "results" / "metrics.json").read_text())
    assert metrics["counts"]["key_frames_with_both"] == 10
    assert metrics["counts"]["prediction_rows_without_ground_truth"] == 0
    page = (tmp_path / "results" / "report.html").read_text()
    shown = set(re.findall(r"<p>(v\d), second ([0-9.]+)</p>", page))
    assert shown
    assert shown <= {(row[0], row[1]) for row in rows}
    assert "Without a picture" not in page


def test_the_pictures_of_a_second_have_names_of_their_own(made: tuple[Path, Store], tmp_path: Path) -> None:
    split = Dataset.open(made[0]).split("train")
    drawn = [draw_key_frame(split, frame, [], tmp_path) for frame in split.key_frames]
    assert len(set(drawn)) == 10
    assert drawn[0].name == "v0_0900.2.png"
    assert drawn[3].name == "v0_0901.png"
    predictions = tmp_path / "p.csv"
    predictions.write_text("v0,0900.2,0,0,.5,.5,1,.9\nv0,0900.4,0,0,.5,.5,2,.9\n")
    assert list(read_predictions(predictions, min_score=0.5)) == [KeyFrame("v0", 900_200), KeyFrame("v0", 900_400)]
