"""Validation on held-out videos of the training split."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cache.split_store import PublishedSplit, load_split
from cache.store import Store
from recognizer_svc.runs.events import read_events
from recognizer_svc.service.admission import check_data
from recognizer_svc.training.checkpoint import load_checkpoint
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.held_out import divide
from recognizer_svc.training.inputs import open_inputs
from recognizer_svc.training.recipe import parse_recipe
from recognizer_svc.training.run import train_run
from stal_data.errors import ConflictError, InputError
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from tests.recognizer.conftest import make_run
from tests.recognizer.joint_store import JOINT, make_joint_store
from tests.recognizer.toy_store import ACAR, LABELS, make_scene, write_split

HELD_OUT = ("validation.split=null", "validation.held_out=0.3")


def split_of(videos: list[str], empty: list[str]) -> PublishedSplit:
    """Two key frames of each video; nobody is in those of `empty`."""
    key_frames = tuple(
        AnnotatedKeyFrame(
            key=KeyFrame(video, 1000 * second),
            window=None,
            boxes_N4=np.array([[0, 0, 1, 1]] * (video not in empty), np.float32).reshape(-1, 4),
            labels=(frozenset({1}),) * (video not in empty),
            persons=(0,) * (video not in empty),
        )
        for video in sorted({*videos, *empty})
        for second in (0, 1)
    )
    return PublishedSplit(
        dataset="toy",
        split="train",
        key_frames=key_frames,
        exclusions=frozenset(),
        annotated=True,
        label_map=LABELS,
        digest="",
    )


def videos_of(part: PublishedSplit) -> set[str]:
    return {item.key.video for item in part.key_frames}


names = st.lists(st.text("abcxyz", min_size=1, max_size=4), min_size=2, max_size=30, unique=True)


@given(videos=names, fraction=st.floats(0.001, 0.999))
def test_no_video_is_on_both_sides_and_both_have_some(videos: list[str], fraction: float) -> None:
    split = split_of(videos, ["0 empty"])
    train, validation = divide(split, fraction)
    assert videos_of(train) & videos_of(validation) == set()
    assert sorted([*train.key_frames, *validation.key_frames], key=lambda item: item.key) == list(split.key_frames)
    assert len(videos_of(validation)) == min(max(round(fraction * len(videos)), 1), len(videos) - 1)
    assert videos_of(validation) <= set(videos)
    assert (train.digest, validation.digest) == (split.digest, split.digest)
    larger = divide(split, min(1.5 * fraction, 0.999))[1]
    assert videos_of(validation) <= videos_of(larger)


def test_one_video_cannot_be_divided() -> None:
    with pytest.raises(InputError, match=r"validation.held_out is 0.5, but toy/train has 1 video with people"):
        divide(split_of(["a"], ["b"]), 0.5)


@pytest.mark.parametrize("value", ["0", "1", "-0.1", ".nan"])
def test_the_fraction_is_one(value: str) -> None:
    with pytest.raises(InputError, match=r"validation.held_out is "):
        parse_recipe(ACAR, ["validation.split=null", f"validation.held_out={value}"])


def test_a_split_and_held_out_videos_exclude_each_other() -> None:
    with pytest.raises(InputError, match=r"split is test and held_out is 0.2, .*--set validation.split=null"):
        parse_recipe(ACAR, ["validation.held_out=0.2"])
    assert parse_recipe(ACAR, HELD_OUT).validation.held_out == 0.3


@pytest.mark.parametrize("layout", ["key_frames", "rows"])
def test_a_run_is_that_on_two_splits_of_the_same_videos(toy_store: Store, tmp_path, layout: str) -> None:
    """The slow way: the held-out videos as a split of their own, published beside one of the others."""
    root = shutil.copytree(toy_store.root, tmp_path / "store")
    store = Store.open(root)
    _, validation = divide(load_split(store, "toy", "train"), 0.3)
    held_out = videos_of(validation)
    assert 1 < len(held_out) < 8
    scenes = [make_scene(index, seed=0) for index in range(42)]
    for name, part in (("rest", False), ("apart", True)):
        chosen = [scene for scene in scenes if (scene.key_frame.key.video in held_out) is part]
        write_split(store, name, chosen, views=("identity", "hflip"))
    words = [f"data.layout={layout}", "training.epochs=2"]
    one = make_run(root, "one", [*HELD_OUT, *words])
    two = make_run(root, "two", ["data.train_split=rest", "validation.split=apart", *words])
    for run in (one, two):
        assert train_run(run, Ranks())
    heads = [load_checkpoint(run.checkpoint("best")).head_state for run in (one, two)]
    assert all(torch.equal(tensor, heads[1][name]) for name, tensor in heads[0].items())
    figures = [
        [(e.values["map"], e.values["loss"], e.values["boxes"]) for e in read_events(run.events) if e.type == kind]
        for run in (one, two)
        for kind in ["validation"]
    ]
    assert figures[0] == figures[1]
    assert len(figures[0]) == 2
    told = [event.values["message"] for event in read_events(one.events) if event.type == "log"]
    assert any(f"validation on {len(held_out)} of 9 videos of toy/train" in message for message in told)


def test_every_seed_holds_out_the_same(toy_store: Store) -> None:
    found = [
        open_inputs(parse_recipe(ACAR, [*HELD_OUT, f"training.seed={seed}"]), toy_store).validation for seed in (0, 7)
    ]
    assert [item.key for item in found[0].items] == [item.key for item in found[1].items]


@pytest.mark.parametrize("held_out", ["null", "0.4"])
def test_a_resumed_run_holds_out_the_same(new_run, held_out: str) -> None:
    run = new_run("one", [*HELD_OUT, "training.epochs=1"])
    train_run(run, Ranks())
    new_run("one", ["validation.split=null", f"validation.held_out={held_out}", "training.epochs=2"])
    with pytest.raises(ConflictError, match=r"validation.held_out: 0.3 / "):
        train_run(run, Ranks())
    new_run("one", [*HELD_OUT, "validation.keep_best=false", "training.epochs=2"])
    assert train_run(run, Ranks())


def test_joint_training_holds_out_videos_too(tmp_path) -> None:
    joint = make_joint_store(tmp_path)
    inputs = open_inputs(parse_recipe(JOINT, HELD_OUT), joint.store, joint.data_root)
    assert inputs.validation is not None
    parts = [{item.key.video for item in part.items} for part in (inputs.train, inputs.validation)]
    assert [len(part) for part in parts] == [2, 1]
    assert parts[0] & parts[1] == set()
    assert inputs.validation.decodes


def test_a_service_refuses_what_cannot_be_divided(toy_store: Store, tmp_path) -> None:
    root = shutil.copytree(toy_store.root, tmp_path / "store")
    store = Store.open(root)
    write_split(store, "short", [make_scene(index, seed=0) for index in range(5)], views=("identity",))
    recipe = parse_recipe(ACAR, [*HELD_OUT, "data.train_split=short"])
    with pytest.raises(InputError, match="has 1 video with people"):
        check_data(store, recipe, None, resume=False)
    check_data(store, replace_split(recipe), None, resume=False)


def replace_split(recipe):
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"train_split": "train"})})
