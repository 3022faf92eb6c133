"""The published layout: what the head is shown, how often boxes are predicted, and how such predictions score."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import stal_eval
from cache.feature_store import open_feature_set
from cache.proposal_store import DetectorSpec, Proposals, write_proposals
from cache.split_store import PublishedSplit, load_split, publish_split
from cache.store import Store
from recognizer_svc.data import Augmentation, LabelledFeatures, labelled_key_frames
from recognizer_svc.heads.batch import FeatureShapes
from recognizer_svc.people import People
from recognizer_svc.runs.events import read_events
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.scoring.engine import Engine
from recognizer_svc.scoring.predict import BoxesOfKeyFrame, Predictor
from recognizer_svc.scoring.queries import PredictQuery
from recognizer_svc.scoring.row_predictions import clips_to_score
from recognizer_svc.scoring.served_models import ServedModels
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.recipe import parse_recipe
from recognizer_svc.training.row_layout import row_clips, rows_of, single_people
from recognizer_svc.training.run import train_run
from recognizer_svc.training.validation import mean_average_precision
from stal_data.dataset import Split
from stal_data.errors import ConflictError, InputError
from stal_data.keyframes import AnnotatedKeyFrame, ScoredKeyFrame
from tests.recognizer.toy_store import ACAR, LABELS, make_store

DETECTOR = DetectorSpec(name="p", weights="unknown", height=64, width=96, confidence=0.3, library="none")


def with_rows(item: AnnotatedKeyFrame, *, first: bool) -> AnnotatedKeyFrame:
    """Give everybody a second action, and let the first person's rows occur twice; the very first one is lost."""
    labels = tuple(ids | {4} for ids in item.labels)
    counts = [tuple(2 if person == 0 else 1 for _ in ids) for person, ids in enumerate(labels)]
    if first and counts:
        counts[0] = (counts[0][0] - 1, *counts[0][1:])
    return replace(item, labels=labels, row_counts=tuple(counts))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A toy store with counted rows, proposals of unknown confidence and a head trained on rows."""
    store = make_store(tmp_path_factory.mktemp("rows") / "store", views=("identity",))
    for name in ("train", "test"):
        split = load_split(store, "toy", name)
        items = tuple(with_rows(item, first=number == 0) for number, item in enumerate(split.key_frames))
        publish_split(
            store,
            Split(
                dataset="toy",
                name=name,
                key_frames=items,
                exclusions=frozenset(),
                annotated=True,
                label_map=LABELS,
                media=None,
            ),
        )
    items = load_split(store, "toy", "test").key_frames
    boxes = [np.float32([[0.1, 0.1, 0.5, 0.9], [0.5, 0.2, 0.9, 0.8], [0.3, 0.3, 0.3, 0.9]])] * len(items)
    proposals = Proposals(
        dataset="toy",
        split="test",
        key_frames=tuple(item.key for item in items),
        offsets_K1=np.arange(len(items) + 1, dtype=np.int64) * 3,
        boxes_N4=np.concatenate(boxes),
        scores_N=np.full(3 * len(items), np.nan, np.float32),
        detector=DETECTOR,
    )
    write_proposals(store, proposals)
    train(store, "rows", ["data.layout=rows"])
    return store


def train(store: Store, run_id: str, overrides: Sequence[str]) -> RunDir:
    run_dir = RunDir(store.runs_dir / run_id)
    run_dir.root.mkdir(parents=True, exist_ok=True)
    run_dir.recipe.write_text(parse_recipe(ACAR, overrides).to_yaml())
    train_run(run_dir, Ranks())
    return run_dir


def num_rows(split: PublishedSplit) -> int:
    return sum(sum(map(sum, item.row_counts or ())) for item in split.key_frames)


def test_a_clip_is_one_person_with_one_action(store: Store) -> None:
    split = load_split(store, "toy", "train")
    clips = row_clips(split, LABELS)
    assert len(clips) == num_rows(split)
    assert all(clip.boxes_N4.shape == (1, 4) and clip.targets_NC.sum() == 1 for clip in clips)
    first = split.key_frames[0]
    assert first.row_counts is not None
    assert first.row_counts[0] == ((1,) if len(first.labels[0]) == 1 else (1, 2))
    whole = {item.key: item for item in labelled_key_frames(split, LABELS)}
    for key, item in whole.items():
        mine = [clip for clip in clips if clip.key == key]
        assert [clip.part for clip in mine] == list(range(1, len(mine) + 1))
        # Together the rows say what the key frame says.
        for box, targets in zip(item.boxes_N4, item.targets_NC, strict=True):
            of_person = [clip.targets_NC[0] for clip in mine if (clip.boxes_N4[0] == box).all()]
            np.testing.assert_array_equal(np.max(of_person, axis=0), targets)


def test_without_counts_each_action_is_a_row(store: Store) -> None:
    item = replace(load_split(store, "toy", "train").key_frames[0], row_counts=None)
    assert list(rows_of(item)) == [(person, label) for person, ids in enumerate(item.labels) for label in sorted(ids)]


def test_the_rows_of_a_key_frame_share_its_features_and_are_augmented_apart(store: Store) -> None:
    features = open_feature_set(store, "toy", "train")
    clips = row_clips(load_split(store, "toy", "train"), LABELS)
    data = LabelledFeatures(
        clips,
        FeatureShapes.of(features.spec, features.shapes, None),
        identity=features,
        augmentation=Augmentation(box_jitter=0.2),
    )
    second = next(n for n in range(1, len(clips)) if clips[n].key == clips[n - 1].key)
    batch = data.load([second - 1, second]).head
    assert batch.clip_of_N.tolist() == [0, 1]
    np.testing.assert_array_equal(batch.features["slow"][0], batch.features["slow"][1])
    moved = batch.boxes_N4.numpy() - np.concatenate([clips[second - 1].boxes_N4, clips[second].boxes_N4])
    assert (moved[0] != moved[1]).any()


def test_a_run_on_rows_says_so_counts_them_and_cannot_change_its_layout(store: Store) -> None:
    run_dir = RunDir(store.runs_dir / "rows")
    split = load_split(store, "toy", "train")
    events = list(read_events(run_dir.events))
    (steps,) = {event.values["steps_per_epoch"] for event in events if event.type == "step"}
    assert steps == -(-num_rows(split) // 8)
    assert {event.values["actors"] for event in events if event.type == "epoch"} == {num_rows(split)}
    told = [event.values["message"] for event in events if event.type == "log"]
    assert any(f"training on {num_rows(split)} rows of 36 key frames of toy/train" in text for text in told)
    run_dir.recipe.write_text(parse_recipe(ACAR, ["training.epochs=3"]).to_yaml())
    try:
        with pytest.raises(ConflictError, match=r"data\.layout: rows / key_frames"):
            train_run(run_dir, Ranks())
    finally:
        run_dir.recipe.write_text(parse_recipe(ACAR, ["data.layout=rows"]).to_yaml())


def test_validation_shows_each_person_alone_and_once(store: Store) -> None:
    people = single_people(labelled_key_frames(load_split(store, "toy", "test"), LABELS))
    assert all(item.boxes_N4.shape == (1, 4) and item.targets_NC.sum() >= 1 for item in people)
    predictor = Predictor.load(store.runs_dir / "rows", device="cpu")
    features = predictor.open_features(store, "toy", "test")
    scored = predictor.predict(features, [BoxesOfKeyFrame(key=item.key, boxes_N4=item.boxes_N4) for item in people])
    scores = np.concatenate([item.scores_NC for item in scored])
    expected = mean_average_precision(scores, np.concatenate([item.targets_NC for item in people]))
    events = read_events(store.runs_dir / "rows" / "events.jsonl")
    assert [event.values["map"] for event in events if event.type == "validation"][1] == pytest.approx(
        expected, abs=1e-9
    )


def predict(store: Store, *, proposals: str | None, layout: str) -> tuple[list[ScoredKeyFrame], tuple[str, ...]]:
    query = PredictQuery(
        run_id="rows",
        checkpoint="latest",
        dataset="toy",
        split="test",
        proposals=proposals,
        feature_set="",
        layout=layout,
    )
    prediction = Engine(store, device="cpu", served=ServedModels()).prepare(query)
    scored = list(prediction.scored)
    assert prediction.num_key_frames == len(scored) == len({item.key for item in scored})
    assert prediction.num_boxes == sum(len(item.boxes_N4) for item in scored)
    return scored, prediction.notes


def test_annotated_people_are_scored_alone_once_for_each_of_their_rows(store: Store) -> None:
    found, notes = predict(store, proposals=None, layout="rows")
    assert notes == ()
    items = {item.key: item for item in load_split(store, "toy", "test").key_frames}
    predictor = Predictor.load(store.runs_dir / "rows", device="cpu")
    features = predictor.open_features(store, "toy", "test")
    for scored in found:
        item = items[scored.key]
        order = [person for person, _ in rows_of(item)]
        np.testing.assert_array_equal(scored.boxes_N4, item.boxes_N4[order])
        alone = predictor.predict(
            features, [BoxesOfKeyFrame(key=item.key, boxes_N4=item.boxes_N4[[n]]) for n in range(len(item.boxes_N4))]
        )
        expected = np.concatenate([one.scores_NC for one in alone])
        # Another batch, another order of sums.
        np.testing.assert_allclose(scored.scores_NC, expected[order], rtol=1e-4, atol=1e-6)
        repeats = {tuple(box): set() for box in scored.boxes_N4.tolist()}
        for box, scores in zip(scored.boxes_N4.tolist(), scored.scores_NC, strict=True):
            repeats[tuple(box)].add(scores.tobytes())
        assert all(len(different) == 1 for different in repeats.values())
    together, notes = predict(store, proposals=None, layout="key_frames")
    assert any("was trained in the layout rows and predicts in key_frames" in note for note in notes)
    assert sum(len(item.boxes_N4) for item in together) < sum(len(item.boxes_N4) for item in found)


def test_proposals_are_scored_together_and_repeated_once_for_each_row(store: Store) -> None:
    found, _ = predict(store, proposals="p", layout="rows")
    once, notes = predict(store, proposals="p", layout="key_frames")
    assert any("without area left out" in note for note in notes)
    counts = {
        item.key: len(list(rows_of(item)))
        for item in load_split(store, "toy", "test").key_frames
        if len(list(rows_of(item)))
    }
    assert [item.key for item in found] == list(counts)
    plain = {item.key: item for item in once}
    for item in found:
        assert item.boxes_N4.shape == (2 * counts[item.key], 4)
        np.testing.assert_array_equal(item.boxes_N4, np.tile(plain[item.key].boxes_N4, (counts[item.key], 1)))
        expected = np.tile(plain[item.key].scores_NC, (counts[item.key], 1))
        np.testing.assert_allclose(item.scores_NC, expected, rtol=1e-4, atol=1e-6)


def test_a_key_frame_whose_only_row_is_lost_is_not_predicted(store: Store) -> None:
    split = load_split(store, "toy", "test")
    lonely = next(item for item in split.key_frames if len(item.labels) == 1)
    lost = replace(lonely, labels=(frozenset({1}),), row_counts=((0,),))
    items = tuple(lost if item.key == lonely.key else item for item in split.key_frames)
    changed = replace(split, key_frames=items)
    people = {item.key: People.of(item.boxes_N4, item.persons) for item in items}
    for alone in (True, False):
        keys = {clip.people.key for clip in clips_to_score(changed, people, "rows", alone=alone)}
        assert lonely.key not in keys
        assert lonely.key in {clip.people.key for clip in clips_to_score(changed, people, "key_frames", alone=alone)}
    with pytest.raises(InputError, match="has no annotations, and the layout 'rows' repeats"):
        clips_to_score(replace(split, annotated=False), people, "rows", alone=False)


def test_repeated_predictions_are_scored_as_they_are() -> None:
    """The second of two equal detections finds its person taken: a false positive, and it takes a place of the cut."""
    truth = pd.DataFrame(
        [("v", 1, 0.1, 0.1, 0.4, 0.9, 1), ("v", 1, 0.6, 0.1, 0.9, 0.9, 1)],
        columns=["video", "timestamp", "x1", "y1", "x2", "y2", "label"],
    )
    once = truth.assign(score=[0.9, 0.8])
    twice = pd.concat([once, once], ignore_index=True)
    assert stal_eval.evaluate(once, truth, LABELS, capacities="0").best.mean_ap == 1
    result = stal_eval.evaluate(twice, truth, LABELS, capacities="2,0")
    # Hit, repeat, hit, repeat: precision 1 at recall 1/2, then 2/3 at recall 1. With two places only one is found.
    np.testing.assert_allclose(result.mean_ap_C, [0.5, 0.5 + 0.5 * 2 / 3])
