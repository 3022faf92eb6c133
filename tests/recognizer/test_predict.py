"""Scores from a trained head: the same as in validation, for any grouping of key frames, and never from wrong input."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from cache.feature_store import open_feature_set
from cache.split_store import load_split
from cache.store import Store
from recognizer_svc.runs.events import read_events
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.scoring import predict
from recognizer_svc.scoring.predict import BoxesOfKeyFrame, Predictor
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.recipe import parse_recipe
from recognizer_svc.training.run import train_run
from recognizer_svc.training.validation import mean_average_precision
from stal_data.errors import ConflictError, InputError, NotFoundError
from stal_data.keyframes import KeyFrame
from tests.recognizer.toy_store import ACAR, LABELS, make_scene, write_split


@pytest.fixture(scope="module")
def trained(toy_store, tmp_path_factory) -> tuple[Store, RunDir]:
    root = tmp_path_factory.mktemp("predict") / "store"
    shutil.copytree(toy_store.root, root)
    store = Store.open(root)
    run_dir = RunDir(store.runs_dir / "run")
    run_dir.root.mkdir(parents=True)
    run_dir.recipe.write_text(parse_recipe(ACAR, ["loss={kind: pose_softmax, num_poses: 2}"]).to_yaml())
    train_run(run_dir, Ranks())
    return store, run_dir


def people_of(store: Store, split: str) -> list[BoxesOfKeyFrame]:
    return [
        BoxesOfKeyFrame(key=item.key, boxes_N4=item.boxes_N4) for item in load_split(store, "toy", split).key_frames
    ]


def test_scores_are_those_that_validation_saw(trained):
    store, run_dir = trained
    predictor = Predictor.load(run_dir.root, device="cpu")
    features = predictor.open_features(store, "toy", "test")
    people = people_of(store, "test")
    found = list(predictor.predict(features, people))
    assert [item.key for item in found] == [item.key for item in people]
    assert predictor.label_map == LABELS
    scores = np.concatenate([item.scores_NC for item in found])
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores[:, :2].sum(axis=1), 1, rtol=1e-5)
    targets = np.array(
        [
            [label_id in ids for label_id in LABELS.ids]
            for item in load_split(store, "toy", "test").key_frames
            for ids in item.labels
        ],
        dtype=np.float32,
    )
    validations = [event.values["map"] for event in read_events(run_dir.events) if event.type == "validation"]
    assert mean_average_precision(scores, targets) == pytest.approx(validations[-1], abs=1e-9)
    best = Predictor.load(run_dir.root, device="cpu", checkpoint="best")
    assert best.checkpoint.progress.validation_map == max(validations)


def test_a_head_can_be_warmed_up_before_its_first_request(trained):
    _, run_dir = trained
    predictor = Predictor.load(run_dir.checkpoint("latest"), device="cpu")
    predictor.warm_up()


def test_grouping_does_not_change_scores(trained, monkeypatch):
    store, run_dir = trained
    predictor = Predictor.load(run_dir.checkpoint("latest"), device="cpu")
    features = predictor.open_features(store, "toy", "test")
    people = people_of(store, "test")
    together = [item.scores_NC for item in predictor.predict(features, people)]
    monkeypatch.setattr(predict, "MAX_CLIPS", 2)
    monkeypatch.setattr(predict, "MAX_ACTORS", 3)
    for found, expected in zip(predictor.predict(features, people), together, strict=True):
        np.testing.assert_allclose(found.scores_NC, expected, rtol=1e-4, atol=1e-6)


def test_key_frames_without_boxes_come_back_empty(trained):
    store, run_dir = trained
    predictor = Predictor.load(run_dir.root, device="cpu")
    features = predictor.open_features(store, "toy", "test")
    keys = features.key_frames[:3]
    nobody = [BoxesOfKeyFrame(key=key, boxes_N4=np.empty((0, 4), np.float32)) for key in keys]
    assert [item.scores_NC.shape for item in predictor.predict(features, nobody)] == [(0, 4)] * 3
    assert list(predictor.predict(features, [])) == []


def test_boxes_that_are_not_finite_are_refused_before_anything_is_scored(trained):
    store, run_dir = trained
    predictor = Predictor.load(run_dir.root, device="cpu")
    features = predictor.open_features(store, "toy", "test")
    boxes = np.array([[0, 0, np.nan, 1]], dtype=np.float32)
    with pytest.raises(InputError, match="must be x1,y1,x2,y2"):
        next(predictor.predict(features, [BoxesOfKeyFrame(key=features.key_frames[0], boxes_N4=boxes)]))


def test_an_unknown_key_frame_is_named(trained):
    store, run_dir = trained
    predictor = Predictor.load(run_dir.root, device="cpu")
    features = predictor.open_features(store, "toy", "test")
    boxes = np.array([[0, 0, 1, 1]], dtype=np.float32)
    with pytest.raises(NotFoundError, match="nowhere,0001"):
        next(predictor.predict(features, [BoxesOfKeyFrame(key=KeyFrame("nowhere", 1000), boxes_N4=boxes)]))


def test_features_of_other_weights_are_refused_field_by_field(trained):
    store, run_dir = trained
    predictor = Predictor.load(run_dir.root, device="cpu")
    spec = predictor.feature_spec
    changed = spec.with_backbone(replace(spec.backbone("slowfast"), weights="random:1"))
    other = replace(predictor.checkpoint, feature_spec=changed)
    predictor = Predictor(other, predictor.device)
    with pytest.raises(ConflictError, match=r"slowfast\.weights: random:1 / random:0"):
        next(predictor.predict(open_feature_set(store, "toy", "test"), []), None)


def test_a_mirrored_set_has_the_trained_spec_but_boxes_do_not_belong_to_it(trained):
    store, run_dir = trained
    predictor = Predictor.load(run_dir.root, device="cpu")
    mirrored = open_feature_set(store, "toy", "train", view="hflip")
    assert predictor.check_spec(mirrored) == ()
    with pytest.raises(InputError, match="boxes belong to the identity view"):
        predictor.open_features(store, "toy", "train", set_id=mirrored.id)


def test_a_split_without_features_says_what_to_run(trained):
    store, run_dir = trained
    predictor = Predictor.load(run_dir.root, device="cpu")
    with pytest.raises(NotFoundError, match="run 'stal-cli precompute'"):
        predictor.open_features(store, "toy", "elsewhere")


def test_a_head_of_one_stream_reads_a_set_with_both(trained):
    store, _ = trained
    narrow = RunDir(store.runs_dir / "slowfast-only")
    narrow.root.mkdir(parents=True)
    narrow.recipe.write_text(parse_recipe(ACAR, ["data.streams=[slowfast]", "training.epochs=1"]).to_yaml())
    train_run(narrow, Ranks())
    write_split(store, "one-stream", [make_scene(index, seed=1) for index in range(7)], views=("identity",), vit=False)
    predictor = Predictor.load(narrow.root, device="cpu")
    features = predictor.open_features(store, "toy", "one-stream")
    both = predictor.open_features(store, "toy", "test")
    people = people_of(store, "one-stream")
    found, expected = (list(predictor.predict(source, people)) for source in (features, both))
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(left.scores_NC, right.scores_NC, atol=1e-6)


def test_a_run_without_a_checkpoint_says_so(trained):
    store, _ = trained
    with pytest.raises(NotFoundError, match="has not saved one yet"):
        Predictor.load(store.runs_dir, device="cpu")
