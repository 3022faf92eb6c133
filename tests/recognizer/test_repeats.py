"""Repeat-factor sampling: who is drawn how often, the same for any number of ranks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recognizer_svc.data import Augmentation, LabelledKeyFrame
from recognizer_svc.runs.events import read_events
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.repeats import clips_per_epoch, drawn_clips, repeat_factors
from recognizer_svc.training.run import train_run
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from tests.recognizer.test_data import open_train


def clip(*people: set[int]) -> LabelledKeyFrame:
    targets_NC = np.zeros((len(people), 4), np.float32)
    for person, classes in enumerate(people):
        targets_NC[person, list(classes)] = 1
    boxes_N4 = np.tile(np.array([[0, 0, 1, 1]], np.float32), (len(people), 1))
    return LabelledKeyFrame(key=KeyFrame("v", 0), boxes_N4=boxes_N4, targets_NC=targets_NC)


CLIPS = [clip({0}) for _ in range(12)] + [clip({0}, {1}) for _ in range(3)] + [clip({0, 2}, {1}), clip(set())]


def test_factors_follow_the_rarest_class_of_a_clip():
    share = {0: 16 / 17, 1: 4 / 17, 2: 1 / 17}
    wanted = {name: max(1, math.sqrt(0.5 / value)) for name, value in share.items()}
    expected = [1.0] * 12 + [wanted[1]] * 3 + [wanted[2], 1.0]
    np.testing.assert_allclose(repeat_factors(CLIPS, 0.5), expected)
    assert (repeat_factors(CLIPS, None) == 1).all()
    assert (repeat_factors(CLIPS, 1 / 17) == 1).all()


FACTORS = st.lists(st.floats(1, 5), min_size=1, max_size=60).map(np.array)


@settings(max_examples=100)
@given(FACTORS, st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_has_a_fixed_number_of_clips_each_as_often_as_its_factor_rounded(factors, seed, epoch):
    drawn = drawn_clips(factors, seed=seed, epoch=epoch)
    assert len(drawn) == clips_per_epoch(factors) == math.ceil(factors.sum())
    assert len(set(drawn.tolist())) == len(drawn)  # each repetition has a number of its own
    counts = np.bincount(drawn % len(factors), minlength=len(factors))
    scaled = factors * len(drawn) / factors.sum()
    assert (counts >= np.maximum(np.floor(scaled - 1e-9), 1)).all()
    assert (counts <= np.ceil(scaled + 1e-9)).all()
    repetitions = drawn // len(factors)
    assert (repetitions < counts[drawn % len(factors)]).all()
    np.testing.assert_array_equal(drawn, drawn_clips(factors, seed=seed, epoch=epoch))


def test_over_many_epochs_each_clip_is_drawn_as_often_as_its_factor():
    factors = repeat_factors(CLIPS, 0.5)
    epochs = 600
    counts = np.zeros(len(CLIPS))
    together = 0
    for epoch in range(epochs):
        found = np.bincount(drawn_clips(factors, seed=0, epoch=epoch) % len(CLIPS), minlength=len(CLIPS))
        counts += found
        together += found[12] == found[13] == 2
    scaled = factors * clips_per_epoch(factors) / factors.sum()
    # The part behind the point is a coin: 600 throws are within 0.02 of their mean, two times in three.
    np.testing.assert_allclose(counts / epochs, scaled, atol=0.08)
    assert 0 < together < epochs  # neighbours do not exclude each other


@settings(max_examples=30)
@given(st.integers(1, 200), st.integers(0, 20))
def test_without_a_threshold_an_epoch_is_every_clip_once(clips, epoch):
    assert drawn_clips(np.ones(clips), seed=1, epoch=epoch).tolist() == list(range(clips))


def test_a_repetition_is_augmented_in_its_own_way(toy_store):
    plain, _ = open_train(toy_store)
    data, _ = open_train(toy_store, augmentation=Augmentation(box_jitter=0.075))
    first, second = data.load([5], epoch=1), data.load([5 + 2 * len(data)], epoch=1)
    assert first.keys == second.keys == plain.load([5]).keys
    np.testing.assert_array_equal(first.head.features["slow"], second.head.features["slow"])
    np.testing.assert_array_equal(first.targets_NC, second.targets_NC)
    assert (first.head.boxes_N4 != second.head.boxes_N4).any()


def test_a_run_shows_what_it_repeats_and_counts_its_steps(new_run):
    run = new_run("repeated", ["data.repeat_threshold=0.9", "training.epochs=2", "training.log_every_steps=1"])
    assert train_run(run, Ranks())
    events = list(read_events(run.events))
    (note,) = [e.values["message"] for e in events if e.type == "log" and "repeat_threshold" in e.values["message"]]
    clips = int(note.split()[3])
    assert clips > 36
    assert f"an epoch has {clips} clips of 36; those of rare classes are drawn up to" in note
    steps = [event.values for event in events if event.type == "step"]
    assert {step["steps_per_epoch"] for step in steps} == {math.ceil(clips / 8)}
    assert [step["step"] for step in steps] == list(range(1, math.ceil(clips / 8) + 1)) * 2


@pytest.mark.parametrize("value", [0, 1.5, -1])
def test_a_threshold_is_a_share(new_run, value):
    with pytest.raises(InputError, match=r"data.repeat_threshold is"):
        new_run("wrong", [f"data.repeat_threshold={value}"])
