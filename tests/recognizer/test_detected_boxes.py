"""Training on a detector's boxes: what they are taken for, and runs on them."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import stal
from cache.proposal_store import DetectorSpec, Proposals, open_proposals, write_proposals
from cache.split_store import PublishedSplit, load_split, publish_split
from cache.store import Store
from recognizer_svc.neighbours import Neighbourhood
from recognizer_svc.people import People
from recognizer_svc.runs.events import read_events
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.service.admission import check_data
from recognizer_svc.training.checkpoint import load_checkpoint
from recognizer_svc.training.detected_boxes import detected_clips
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.inputs import RunInputs, open_inputs
from recognizer_svc.training.recipe import parse_recipe
from recognizer_svc.training.recipe_sections import Data
from recognizer_svc.training.run import train_run
from stal_data.dataset import Split
from stal_data.errors import ConflictError, InputError, NotFoundError
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from tests.recognizer.conftest import make_run
from tests.recognizer.joint_store import JOINT, make_joint_store
from tests.recognizer.toy_store import ACAR, LABELS

Boxes = Mapping[KeyFrame, NDArray[np.float32]]
NOBODY = np.empty((0, 4), np.float32)
LINE = [1.0, 0.2, 1.0, 0.6]
CORNER = [0.0, 0.9, 0.1, 1.0]
PLAIN = ["data.hflip_probability=0", "data.box_jitter=0"]


def proposals_of(boxes: Boxes, name: str = "toy", split: str = "train") -> Proposals:
    keys = sorted(boxes)
    flat = np.concatenate([NOBODY, *(boxes[key] for key in keys)]).astype(np.float32)
    return Proposals(
        dataset="toy",
        split=split,
        key_frames=tuple(keys),
        offsets_K1=np.cumsum([0, *(len(boxes[key]) for key in keys)]),
        boxes_N4=flat,
        scores_N=np.linspace(0.3, 0.9, len(flat), dtype=np.float32),
        detector=DetectorSpec(name=name, weights="sha256:0", height=64, width=96, confidence=0.3, library="none"),
    )


def found_in(store: Store) -> dict[KeyFrame, NDArray[np.float32]]:
    """Of each key frame a box in the corner where nobody is and one without area, but none of the first two.

    Of every other one also each person's box a little smaller, and that of the first person again.
    """
    boxes = {}
    for place, item in enumerate(load_split(store, "toy", "train").key_frames):
        people = item.boxes_N4 * np.float32(0.875) + np.float32(0.125) * item.boxes_N4[:, [0, 1, 0, 1]]
        seen = np.concatenate([people, item.boxes_N4[:1]]) if place % 2 == 0 else NOBODY
        boxes[item.key] = NOBODY if place < 2 else np.concatenate([np.array([CORNER, LINE], np.float32), seen])
    return boxes


@pytest.fixture
def store(toy_store: Store, tmp_path: Path) -> Store:
    copy = Store.open(shutil.copytree(toy_store.root, tmp_path / "store"))
    write_proposals(copy, proposals_of(found_in(copy)))
    return copy


def opened(store: Store, *overrides: str) -> RunInputs:
    return open_inputs(parse_recipe(ACAR, overrides), store)


def iou(a: list[float], b: list[float]) -> float:
    sides = [max(min(a[side + 2], b[side + 2]) - max(a[side], b[side]), 0) for side in (0, 1)]
    shared = sides[0] * sides[1]
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - shared
    return shared / union if union else 0.0


# Eighths, so that areas are exact and equal overlaps happen.
side = st.tuples(st.integers(0, 8), st.integers(0, 8)).map(lambda ends: (min(ends) / 8, max(ends) / 8))
boxes = st.lists(st.tuples(side, side).map(lambda xy: [xy[0][0], xy[1][0], xy[0][1], xy[1][1]]), max_size=5)
people = st.lists(st.tuples(boxes.map(lambda found: found[:1]), st.sets(st.sampled_from(LABELS.ids))), max_size=4)


@given(frames=st.lists(st.tuples(people, boxes), min_size=1, max_size=4), least=st.sampled_from([0.25, 0.5, 0.9, 1.0]))
def test_each_box_is_taken_for_the_person_that_it_overlaps_most(frames, least: float) -> None:
    """Against one box and one person at a time."""
    key_frames, detected, expected, matches, missed = [], {}, {}, 0, 0
    for time, (annotated, found) in enumerate(frames):
        key, persons = KeyFrame("video", time * 1000), [(box[0], labels) for box, labels in annotated if box]
        key_frames.append(
            AnnotatedKeyFrame(
                key=key,
                window=None,
                boxes_N4=np.array([box for box, _ in persons], np.float32).reshape(-1, 4),
                labels=tuple(frozenset(labels) for _, labels in persons),
                persons=tuple(range(len(persons))),
            )
        )
        detected[key] = np.array(found, np.float32).reshape(-1, 4)
        rows, taken = [], set()
        for box in found:
            if box[0] == box[2] or box[1] == box[3]:
                continue
            best = None
            for place, (other, _) in enumerate(persons):
                if iou(box, other) >= least and (best is None or iou(box, other) > iou(box, persons[best][0])):
                    best = place
            rows.append((box, set() if best is None else persons[best][1]))
            taken |= set() if best is None else {best}
            matches += best is not None
        missed += len(persons) - len(taken)
        if rows:
            expected[key] = rows
    split = PublishedSplit(
        dataset="toy",
        split="train",
        key_frames=tuple(key_frames),
        exclusions=frozenset(),
        annotated=True,
        label_map=LABELS,
        digest="",
    )
    data = Data(dataset="toy", boxes="detected", match_iou=least)
    if not matches:
        with pytest.raises(InputError, match=f"overlaps an annotated person by an IoU of {least:g} or more"):
            detected_clips(split, LABELS, proposals_of(detected), data)
        return
    result = detected_clips(split, LABELS, proposals_of(detected), data)
    assert [clip.key for clip in result.clips] == list(expected)
    for clip in result.clips:
        assert clip.boxes_N4.tolist() == [box for box, _ in expected[clip.key]]
        targets = [[label_id in labels for label_id in LABELS.ids] for _, labels in expected[clip.key]]
        np.testing.assert_array_equal(clip.targets_NC, np.array(targets, np.float32))
    total = sum(map(len, expected.values()))
    assert f"{matches} match an annotated person" in result.note
    assert f" {total - matches} are negatives; {missed} of " in result.note


def test_detected_boxes_replace_the_annotated_ones(store: Store) -> None:
    inputs = opened(store, "data.boxes=detected")
    split, found = load_split(store, "toy", "train"), found_in(store)
    assert [item.key for item in inputs.train.items] == [item.key for item in split.key_frames[2:]]
    people = {item.key: item for item in split.key_frames}
    matched = 0
    for place, clip in enumerate(inputs.train.items, start=2):
        np.testing.assert_array_equal(clip.boxes_N4, np.delete(found[clip.key], 1, axis=0))
        labels = LABELS.targets(people[clip.key].labels)
        seen = place % 2 == 0 and len(labels) > 0
        # The corner is nobody's, and two boxes are the first person's.
        wanted = [np.zeros((1, 4)), labels, labels[:1]] if seen else [np.zeros((1, 4))]
        np.testing.assert_array_equal(clip.targets_NC, np.concatenate(wanted))
        matched += seen * (len(labels) + 1)
    everyone = sum(len(item.boxes_N4) for item in split.key_frames)
    missed = sum(len(item.boxes_N4) for place, item in enumerate(split.key_frames) if place % 2 or place < 2)
    assert inputs.notes[0] == (
        f"training on 40 key frames of toy/train with {matched + 40} boxes of 'toy': {matched} match an annotated "
        f"person (IoU of 0.5 or more), 40 are negatives; {missed} of {everyone} annotated people have no box; 2 key "
        "frames without boxes skipped; 40 boxes without area left out"
    )
    # Key frames where nobody is are among them, and all their boxes are negatives.
    empty = [clip for clip in inputs.train.items if not len(people[clip.key].boxes_N4)]
    assert empty
    assert not any(clip.targets_NC.any() for clip in empty)


def test_both_are_the_clips_of_one_and_of_the_other(store: Store) -> None:
    annotated, detected, both = (opened(store, f"data.boxes={kind}") for kind in ("ground_truth", "detected", "both"))
    wanted = [*annotated.train.items, *detected.train.items]
    assert len(both.train.items) == len(wanted) == 36 + 40
    for clip, other in zip(both.train.items, wanted, strict=True):
        assert clip.key == other.key
        np.testing.assert_array_equal(clip.boxes_N4, other.boxes_N4)
        np.testing.assert_array_equal(clip.targets_NC, other.targets_NC)
    # The two clips of a key frame are augmented independently.
    assert len({(clip.key, clip.part) for clip in both.train.items}) == len(wanted)
    assert (both.notes[0], both.notes[1]) == (annotated.notes[0], f"also {detected.notes[0]}")
    assert (annotated.proposals, annotated.train.items[0].part) == (None, 0)
    # Validated on annotated boxes, whatever is trained on.
    counts = {len(inputs.validation.items) for inputs in (annotated, detected, both) if inputs.validation is not None}
    assert counts == {18}


def test_excluded_key_frames_stay_out(store: Store) -> None:
    before = load_split(store, "toy", "train")
    excluded = {before.key_frames[3].key, before.key_frames[6].key}
    publish_split(
        store,
        Split(
            dataset="toy",
            name="train",
            key_frames=tuple(item for item in before.key_frames if item.key not in excluded),
            exclusions=frozenset(excluded),
            annotated=True,
            label_map=LABELS,
            media=None,  # the features are there already
        ),
    )
    assert len(open_proposals(store, "toy", "train").key_frames) == 42
    for kind in ("detected", "both"):
        keys = {clip.key for clip in opened(store, f"data.boxes={kind}").train.items}
        assert keys.isdisjoint(excluded)
        assert len(keys) >= 38


def test_held_out_videos_stay_out(store: Store) -> None:
    held_out = ("validation.split=null", "validation.held_out=0.3")
    for kind in ("detected", "both"):
        inputs = opened(store, *held_out, f"data.boxes={kind}")
        assert inputs.validation is not None
        parts = [{clip.key.video for clip in part.items} for part in (inputs.train, inputs.validation)]
        assert parts[0].isdisjoint(parts[1])


def test_neighbours_are_found_among_the_detected_boxes(store: Store) -> None:
    seeing = ["head={kind: relation, channels: 8}", "data.neighbours=1", "data.boxes=detected", *PLAIN]
    inputs = opened(store, *seeing)
    shown = {key: np.delete(found, 1, axis=0) if len(found) else found for key, found in found_in(store).items()}
    around = Neighbourhood({key: People.of(found) for key, found in shown.items()}, count=1, step_ms=1000)
    sightings = [around.sightings(clip.key) for clip in inputs.train.items]
    batch = inputs.train.load(range(len(inputs.train.items))).head
    np.testing.assert_array_equal(
        batch.neighbour_boxes_NK4.numpy(), np.concatenate([seen.boxes_NK4 for seen in sightings])
    )
    assert np.concatenate([seen.present_NK for seen in sightings]).any()


def test_joint_training_shows_them_too(tmp_path: Path) -> None:
    joint = make_joint_store(tmp_path)
    recipe = parse_recipe(JOINT, ["data.boxes=both", *PLAIN])
    split = load_split(joint.store, recipe.data.dataset, recipe.data.train_split)
    found = proposals_of({item.key: item.boxes_N4 for item in split.key_frames}, split=split.split)
    write_proposals(joint.store, replace(found, dataset=split.dataset))
    inputs = open_inputs(recipe, joint.store, joint.data_root)
    assert inputs.train.decodes
    one, other = inputs.train.items[0], inputs.train.items[len(inputs.train) // 2]
    assert one.key == other.key
    batch = inputs.train.load([0, len(inputs.train) // 2])
    torch.testing.assert_close(batch.head.clips_B3THW[0], batch.head.clips_B3THW[1])


def test_a_run_on_both_differs_predicts_and_says_what_it_saw(store: Store) -> None:
    heads = {}
    for kind in ("ground_truth", "both"):
        run = make_run(store.root, kind, [f"data.boxes={kind}", "training.epochs=1"])
        assert train_run(run, Ranks())
        heads[kind] = load_checkpoint(run.checkpoint("latest")).head_state
    assert any(not torch.equal(tensor, heads["both"][name]) for name, tensor in heads["ground_truth"].items())
    runs = [RunDir(store.root / "runs" / kind) for kind in heads]
    told = [str(event.values["message"]) for event in read_events(runs[1].events) if event.type == "log"]
    assert any("also training on 40 key frames of toy/train with" in text for text in told)
    kept = [json.loads(run.provenance.read_text())["proposals"] for run in runs]
    digest = open_proposals(store, "toy", "train").digest
    assert kept == [None, {"name": "toy", "weights": "sha256:0", "digest": digest}]
    python = stal.open_store(store.root)
    predictions = stal.predict(python.run("both"), "toy", "train", boxes="proposals")
    assert len(predictions.key_frames) == 40


def test_a_resumed_run_needs_the_boxes_that_it_began_with(store: Store) -> None:
    words = ["data.boxes=detected", "training.epochs=1"]
    run = make_run(store.root, "one", words)
    assert train_run(run, Ranks())
    longer = ["data.boxes=detected", "training.epochs=2"]
    moved = {key: found * np.float32(0.9) for key, found in found_in(store).items()}
    write_proposals(store, proposals_of(moved, name="other"))
    make_run(store.root, "one", [*longer, "data.proposals=other"])
    with pytest.raises(ConflictError, match=r"trained on other boxes of toy/train \(digest \w{16} of 'toy'\)"):
        train_run(run, Ranks())
    make_run(store.root, "one", ["data.boxes=both", "training.epochs=2"])
    with pytest.raises(InputError, match=r"toy/train has proposals of other, toy; name those .* data\.proposals"):
        train_run(run, Ranks())
    make_run(store.root, "one", ["data.boxes=both", "data.proposals=toy", "training.epochs=2"])
    with pytest.raises(ConflictError, match=r"data\.boxes: detected / both"):
        train_run(run, Ranks())
    # The same boxes by their name.
    make_run(store.root, "one", [*longer, "data.proposals=toy"])
    assert train_run(run, Ranks())


def test_the_digest_is_of_the_boxes(store: Store) -> None:
    one = open_proposals(store, "toy", "train")
    assert one.digest == proposals_of(found_in(store), name="other").digest
    changed = found_in(store)
    key = max(changed)
    changed[key] = changed[key] * np.float32(0.5)
    assert one.digest != proposals_of(changed).digest


def test_missing_proposals_are_noticed_before_a_job_starts(toy_store: Store, store: Store) -> None:
    recipe = parse_recipe(ACAR, ["data.boxes=detected"])
    for check in (lambda: check_data(toy_store, recipe, None, resume=False), lambda: open_inputs(recipe, toy_store)):
        with pytest.raises(NotFoundError, match=r"has no proposals of toy/train; .*detect DATA --split train --store"):
            check()
    with pytest.raises(NotFoundError, match=r"has no proposals named 'tyo'. Did you mean 'toy'"):
        check_data(store, parse_recipe(ACAR, ["data.boxes=both", "data.proposals=tyo"]), None, resume=False)
    check_data(store, recipe, None, resume=False)


def test_proposals_of_some_key_frames_only_are_refused(store: Store) -> None:
    part = found_in(store)
    del part[max(part)]
    write_proposals(store, proposals_of(part))
    with pytest.raises(NotFoundError, match="is not among the 41 of the proposals 'toy'"):
        opened(store, "data.boxes=detected")


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["data.boxes=detected", "data.layout=rows"], "boxes is detected, but layout is rows"),
        (["data.proposals=toy"], "proposals is toy, but boxes is ground_truth"),
        (
            ["head={kind: relation, channels: 8}", "data.neighbours=1", "data.boxes=both"],
            "boxes is both and neighbours is 1",
        ),
        (["data.boxes=found"], "data.boxes"),
        (["data.match_iou=0"], "data.match_iou"),
        (["data.match_iou=1.5"], "data.match_iou"),
        (["data.proposals=../toy"], "data.proposals"),
    ],
)
def test_a_recipe_that_cannot_use_detected_boxes_is_refused(overrides, text) -> None:
    with pytest.raises(InputError, match=text):
        parse_recipe(ACAR, overrides)
