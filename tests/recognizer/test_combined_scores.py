"""Predictions weighted by the detector's confidence, and averaged with those of the mirror image."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import stal
from cache.feature_store import open_feature_set
from cache.proposal_store import DetectorSpec, Proposals, write_proposals
from cache.split_store import load_split
from cache.store import Store
from cli.commands.predict import predict as predict_command
from recognizer_svc.boxes import mirrored_boxes
from recognizer_svc.people import People
from recognizer_svc.scoring.engine import Engine
from recognizer_svc.scoring.predict import BoxesOfKeyFrame, Predictor
from recognizer_svc.scoring.queries import PredictQuery
from recognizer_svc.scoring.served_models import ServedModels
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.run import train_run
from stal_data.errors import InputError, NotFoundError
from stal_data.keyframes import ScoredKeyFrame
from tests.recognizer.conftest import make_run
from tests.recognizer.toy_store import make_scene, write_split

RUNS = {
    "alone": ["head={kind: linear}"],
    "seeing": ["head={kind: relation, channels: 8}", "data.neighbours=1"],
    "banked": ["head={kind: relation, channels: 8}", "data.bank_s=2"],
}
LINE = [1.0, 0.2, 1.0, 0.6]


@pytest.fixture(scope="module")
def store(toy_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store.open(shutil.copytree(toy_store.root, tmp_path_factory.mktemp("combined") / "store"))
    for name, words in RUNS.items():
        assert train_run(make_run(store.root, name, [*words, "training.epochs=1"]), Ranks())
    write_proposals(store, proposals_of(store, "sure"))
    unknown = proposals_of(store, "unsure")
    unknown.scores_N[1] = np.nan  # of a person; that of the line before is never asked for
    write_proposals(store, unknown)
    return store


def proposals_of(store: Store, name: str) -> Proposals:
    """The annotated boxes of `train`, and a box without area before those of each key frame."""
    split = load_split(store, "toy", "train")
    boxes = [np.concatenate([np.array([LINE], np.float32), item.boxes_N4]) for item in split.key_frames]
    total = sum(map(len, boxes))
    scores_N = np.random.default_rng(0).uniform(0, 1, total).astype(np.float32)
    scores_N[0] = np.nan
    return Proposals(
        dataset="toy",
        split="train",
        key_frames=tuple(item.key for item in split.key_frames),
        offsets_K1=np.cumsum([0, *map(len, boxes)]),
        boxes_N4=np.concatenate(boxes),
        scores_N=scores_N,
        detector=DetectorSpec(name=name, weights="sha256:0", height=64, width=96, confidence=0.0, library="none"),
    )


def predict(store: Store, run_id: str, **options: object) -> tuple[list[ScoredKeyFrame], tuple[str, ...]]:
    values = {"checkpoint": "latest", "dataset": "toy", "split": "train", "proposals": None, "feature_set": ""}
    query = PredictQuery(run_id=run_id, **(values | options))
    prediction = Engine(store, device="cpu", served=ServedModels()).prepare(query)
    return list(prediction.scored), prediction.notes


@pytest.mark.parametrize("layout", ["key_frames", "rows"])
@pytest.mark.parametrize("run_id", RUNS)
def test_scores_are_multiplied_by_the_confidence_exactly(store: Store, run_id: str, layout: str) -> None:
    plain, before = predict(store, run_id, proposals="sure", layout=layout)
    fused, notes = predict(store, run_id, proposals="sure", layout=layout, fuse_confidence=True)
    found = proposals_of(store, "sure")
    assert len(plain) > 30
    for item, other in zip(plain, fused, strict=True):
        confidence_N = found.of(item.key)[1][1:]
        repeats = len(item.boxes_N4) // len(confidence_N)
        assert (item.key, repeats >= 1) == (other.key, True)
        np.testing.assert_array_equal(other.boxes_N4, item.boxes_N4)
        np.testing.assert_array_equal(other.scores_NC, item.scores_NC * np.tile(confidence_N, repeats)[:, None])
    assert notes == (*before, "scores are multiplied by the confidence of 'sure'")


def mirrored_pass(store: Store, run_id: str) -> dict:
    """The slow way: everybody's mirrored boxes, found by the head itself in mirrored features."""
    predictor = Predictor.load(store.runs_dir / run_id, device="cpu")
    people = {
        item.key: People.of(mirrored_boxes(item.boxes_N4), item.persons)
        for item in load_split(store, "toy", "train").key_frames
    }
    around = predictor.neighbourhood(people)
    shown = [
        BoxesOfKeyFrame(key=key, boxes_N4=found.boxes_N4, persons_N=found.persons_N, around=around)
        for key, found in people.items()
    ]
    features = open_feature_set(store, "toy", "train", view="hflip")
    return {item.key: item.scores_NC for item in predictor.predict(features, shown)}


@pytest.mark.parametrize("run_id", RUNS)
def test_scores_are_the_mean_of_both_views(store: Store, run_id: str) -> None:
    plain, _ = predict(store, run_id)
    averaged, notes = predict(store, run_id, flip_average=True)
    mirrored = mirrored_pass(store, run_id)
    for item, other in zip(plain, averaged, strict=True):
        np.testing.assert_array_equal(other.boxes_N4, item.boxes_N4)
        mean_NC = (item.scores_NC + mirrored[item.key]) / 2
        np.testing.assert_allclose(other.scores_NC, mean_NC, rtol=1e-5)
    assert any((mirrored[item.key] != item.scores_NC).any() for item in plain)
    flipped = open_feature_set(store, "toy", "train", view="hflip")
    assert notes[-1] == f"scores are averaged with those on the mirrored feature set {flipped.id}"


@pytest.mark.parametrize("run_id", RUNS)
def test_the_mirror_image_of_a_split_gets_the_same_averages(store: Store, run_id: str, tmp_path: Path) -> None:
    copy = Store.open(shutil.copytree(store.root, tmp_path / "store"))
    shutil.rmtree(copy.features_dir("toy", "train"))
    scenes = []
    for index in range(42):
        scene = make_scene(index, seed=0)
        maps = {name: getattr(scene, name)[..., ::-1] for name in ("slow", "fast", "vit")}
        key_frame = replace(scene.key_frame, boxes_N4=mirrored_boxes(scene.key_frame.boxes_N4))
        scenes.append(replace(scene, key_frame=key_frame, **maps))
    write_split(copy, "train", scenes, views=("identity", "hflip"))
    for item, other in zip(
        predict(store, run_id, flip_average=True)[0], predict(copy, run_id, flip_average=True)[0], strict=True
    ):
        np.testing.assert_allclose(other.boxes_N4, mirrored_boxes(item.boxes_N4), atol=1e-6)
        np.testing.assert_allclose(other.scores_NC, item.scores_NC, rtol=1e-4)


def test_both_together_and_in_python(store: Store) -> None:
    averaged, _ = predict(store, "alone", proposals="sure", flip_average=True)
    run = stal.open_store(store.root).run("alone")
    both = stal.predict(
        run, "toy", "train", boxes="proposals:sure", checkpoint="latest", flip_average=True, fuse_confidence=True
    )
    for item, other in zip(averaged, both.key_frames, strict=True):
        confidence_N = proposals_of(store, "sure").of(item.key)[1][1:]
        np.testing.assert_array_equal(other.scores_NC, item.scores_NC * confidence_N[:, None])


def test_what_has_no_confidence_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fuse_confidence is set, but ground-truth boxes have no confidence"):
        predict(store, "alone", fuse_confidence=True)
    text = "'unsure' of toy/train have a box without confidence in key frame video0,0000"
    with pytest.raises(InputError, match=text):
        predict(store, "alone", proposals="unsure", fuse_confidence=True)
    assert len(predict(store, "alone", proposals="unsure")[0]) > 30
    words = ["--fuse-confidence", "--run", "alone", "--dataset", "toy", "--split", "train", "--boxes", "ground-truth"]
    output = tmp_path / "predictions.csv"
    done = CliRunner().invoke(predict_command, [*words, "--store", str(store.root), "--output", str(output)])
    assert done.exit_code == 2
    assert "--fuse-confidence needs --boxes proposals" in done.output
    assert not output.exists()


def test_a_split_without_mirrored_features_is_refused(store: Store) -> None:
    text = r"of toy/test has no mirrored twin\. .*precompute DATA --split test --store STORE --view hflip'"
    with pytest.raises(NotFoundError, match=text):
        predict(store, "alone", split="test", flip_average=True)
