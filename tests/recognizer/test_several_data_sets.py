"""One head trained on several data sets: the same as on one that holds all, and what a data set does not label."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.store import Store
from recognizer_svc.data import LabelledFeatures
from recognizer_svc.losses import LOSSES, Loss
from recognizer_svc.losses.sigmoid import Sigmoid
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.service.admission import check_data
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.evaluate import evaluate
from recognizer_svc.training.inputs import RunInputs, open_inputs
from recognizer_svc.training.recipe import parse_recipe
from recognizer_svc.training.run import Run, train_run
from recognizer_svc.training.validation import mean_average_precision
from stal_data.errors import ConflictError, InputError, StalError
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.labels import Label, LabelMap
from tests.recognizer.conftest import make_run
from tests.recognizer.run_results import FLAT, assert_same, latest, train_on_rank, values
from tests.recognizer.toy_store import ACAR, LABELS, Scene, make_scene, toy_spec, write_split
from tests.recognizer.two_ranks import run_two_ranks

BOTH_VIEWS, TRAIN, TEST = ("identity", "hflip"), 14, 7
WILD, ZOO = ["data.additional=[wild]"], ["data.additional=[zoo]"]
ZOO_LABELS = LabelMap([Label(1, "wave"), Label(2, "stand"), Label(3, "jump"), Label(9, "look around")])
IN_ZOO = {1: 2, 2: 1, 4: 9}
"""Ids of the toy store's actions there; 3 is not labelled."""


def scenes(count: int, seed: int) -> list[Scene]:
    return [make_scene(index, seed=seed) for index in range(count)]


def changed(scene: Scene, change: Callable[[AnnotatedKeyFrame], AnnotatedKeyFrame]) -> Scene:
    return replace(scene, key_frame=change(scene.key_frame))


def zoo_frame(item: AnnotatedKeyFrame) -> AnnotatedKeyFrame:
    """The last person of each key frame jumps, too."""
    labels = [{IN_ZOO[label] for label in ids if label in IN_ZOO} for ids in item.labels]
    for ids in labels[-1:]:
        ids.add(3)
    return replace(item, labels=tuple(map(frozenset, labels)))


def wild_frame(item: AnnotatedKeyFrame) -> AnnotatedKeyFrame:
    return replace(item, key=KeyFrame(f"wild/{item.key.video}", item.key.time_ms))


@pytest.fixture(scope="module")
def store(toy_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The data sets toy; wild, with the same label map; zoo, with another; and whole, which is toy and wild in one.

    They have videos and key frames of the same names, with other people in them.
    """
    store = Store.open(shutil.copytree(toy_store.root, tmp_path_factory.mktemp("several") / "store"))
    for name, count, seed, views in (("train", TRAIN, 2, BOTH_VIEWS), ("test", TEST, 3, ("identity",))):
        others = scenes(count, seed)
        write_split(store, name, others, views=views, dataset="wild")
        write_split(
            store, name, [changed(item, zoo_frame) for item in others], views=views, dataset="zoo", labels=ZOO_LABELS
        )
        toy = scenes(42 if name == "train" else 21, seed - 2)
        write_split(store, name, [*toy, *(changed(item, wild_frame) for item in others)], views=views, dataset="whole")
    return store


def opened(store: Store, *words: str, text: str = ACAR) -> RunInputs:
    return open_inputs(parse_recipe(text, words), store)


def told(run: RunDir) -> str:
    return "\n".join(values(run, "log", "message"))


RELATION = ["head={kind: relation, channels: 8}", "data.neighbours=1", "training.ema_decay=0.9"]


@pytest.mark.parametrize("words", [["data.repeat_threshold=0.5"], RELATION], ids=["repeats", "around"])
def test_a_run_is_that_on_one_data_set_with_all_videos(store: Store, words: list[str]) -> None:
    """To the bit, as the names of the videos of `whole` are those of an additional data set, and sorted alike."""
    one = make_run(store.root, f"one-{len(words)}", ["data.dataset=whole", *words])
    two = make_run(store.root, f"two-{len(words)}", [*WILD, *words])
    for run in (one, two):
        assert train_run(run, Ranks())
    assert_same(latest(two), latest(one))
    for name in ("map", "loss", "boxes"):
        assert values(two, "validation", name) == values(one, "validation", name)
    assert len(values(two, "validation", "map")) == 2
    assert "does not label" not in told(two)


def test_classes_are_joined_by_name(store: Store) -> None:
    inputs = opened(store, *ZOO)
    assert inputs.label_map.labels == (*LABELS.labels, Label(5, "jump"))
    own = {"": opened(store), "zoo": opened(store, "data.dataset=zoo")}
    assert len(inputs.train) == len(own[""].train) + len(own["zoo"].train)
    theirs_by_key = [(name, item) for name in ("", "zoo") for item in own[name].train.items]
    for mine, (dataset, theirs) in zip(inputs.train.items, theirs_by_key, strict=True):
        assert mine.key.video == f"{dataset}/{theirs.key.video}".removeprefix("/")
        assert mine.key.time_ms == theirs.key.time_ms
        for person, targets in enumerate(mine.targets_NC):
            performed = {inputs.label_map.names[place] for place in np.flatnonzero(targets)}
            assert performed == {
                own[dataset].label_map.names[place] for place in np.flatnonzero(theirs.targets_NC[person])
            }
        assert inputs.train.known([mine]).all(axis=0).tolist() == [
            name in own[dataset].label_map.names for name in inputs.label_map.names
        ]
    notes = "\n".join(inputs.notes)
    assert "toy does not label jump, and its people say nothing of it" in notes
    assert "zoo does not label watch a waver, and" in notes
    assert "map of zoo (there / here): wave 1 / 2, stand 2 / 1, jump 3 / 5, look around 9 / 4" in notes
    positives, actors = inputs.actors_per_epoch()
    people = [sum(len(item.boxes_N4) for item in own[name].train.items) for name in ("", "zoo")]
    assert actors == [sum(people), sum(people), people[0], sum(people), people[1]]
    assert positives[4] == len(own["zoo"].train)


def test_a_batch_of_several_data_sets_is_the_batches_of_each(store: Store) -> None:
    """Key frames of the same name are not mixed up, mirrored ones included."""

    def train(*words: str) -> LabelledFeatures:
        return opened(store, *words, "data.box_jitter=0").train

    joined, seen = train(*ZOO), set()
    alone = [
        [train(f"data.dataset={name}", f"data.hflip_probability={share}") for share in (0, 1)]
        for name in ("toy", "zoo")
    ]
    first = len(alone[0][0])
    for part in ([0, first, 3, first + 3, first + 1], [first + 2], [5]):
        batch = joined.load(part).head
        for clip, index in enumerate(part):
            views = [source.load([index % first]).head for source in alone[index // first]]
            same = [
                all(torch.equal(batch.features[name][clip], view.features[name][0]) for name in batch.features)
                and torch.equal(batch.boxes_N4[batch.clip_of_N == clip], view.boxes_N4)
                for view in views
            ]
            assert same.count(True) == 1
            seen.add((index >= first, same.index(True)))
    assert len(seen) == 4
    assert joined.load([]).labelled_NC.shape == (0, 5)


@pytest.mark.parametrize("kind", LOSSES)
def test_classes_that_are_not_labelled_change_nothing(kind: str) -> None:
    """An actor's loss is that of a label map without them; their logits get no gradient."""
    loss: Loss = LOSSES[kind](**({"num_poses": 2} if kind == "pose_softmax" else {}))
    counts, actors = [9.0, 4.0, 2.0, 1.0], [20.0, 20.0, 10.0, 10.0]
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, generator=random, dtype=torch.float64).requires_grad_()
    targets = (torch.rand(6, 4, generator=random) < 0.5).double()
    labelled = torch.ones(6, 4, dtype=torch.bool)
    labelled[2:, 3] = False
    labelled[4:, 2] = False
    whole = loss.fitted(counts, actors).total(logits, targets, labelled)
    expected = sum(
        loss.fitted(counts[:width], actors[:width]).total(logits[rows, :width], targets[rows, :width])
        for rows, width in ((slice(0, 2), 4), (slice(2, 4), 3), (slice(4, 6), 2))
    )
    torch.testing.assert_close(whole, expected)
    whole.backward()
    assert (logits.grad[~labelled] == 0).all()
    assert (logits.grad[labelled] != 0).all()
    with torch.no_grad():
        logits[5, 3] = float("nan")
    assert not torch.isfinite(loss.fitted(counts, actors).total(logits, targets, labelled))


def test_the_map_leaves_out_what_is_not_known() -> None:
    scores, targets = np.random.default_rng(0).random((12, 3), np.float32), np.zeros((12, 3), np.float32)
    targets[::3] = 1
    known = np.ones((12, 3), np.bool_)
    known[6:, 1] = False
    targets[~known] = 0
    parts = [(slice(None), [0, 2]), (slice(6), [1])]
    found = [mean_average_precision(scores[rows][:, columns], targets[rows][:, columns]) for rows, columns in parts]
    assert mean_average_precision(scores, targets, known) == pytest.approx((2 * found[0] + found[1]) / 3)
    assert mean_average_precision(scores, targets, known) != mean_average_precision(scores, targets)


def test_training_and_validation_leave_out_what_is_not_labelled(store: Store) -> None:
    run = Run(make_run(store.root, "step", [*ZOO, *FLAT]), Ranks())
    loss = Sigmoid()
    for step, data in enumerate((run.inputs.train, run.inputs.validation)):
        batch = data.load(range(len(data)))
        with torch.no_grad():
            logits = run.head(batch.head)
        expected = float(loss.total(logits, batch.targets_NC, batch.labelled_NC))
        assert expected != pytest.approx(float(loss.total(logits, batch.targets_NC)), rel=1e-3)
        if step == 0:
            assert run.trainer.step(batch, 1e-30)[0].loss_sum == pytest.approx(expected, rel=1e-5)
            continue
        found = evaluate(run.head, data, loss, Ranks(), threads=1)
        assert found.loss == pytest.approx(expected / len(logits), rel=1e-5)
        scores, targets, known = logits.sigmoid().numpy(), batch.targets_NC.numpy(), batch.labelled_NC.numpy()
        assert found.map == pytest.approx(mean_average_precision(scores, targets, known))
        zoo = known[:, 4]
        assert found.maps["zoo"] == pytest.approx(mean_average_precision(scores[zoo], targets[zoo], known[zoo]))
        assert found.maps.keys() == {"", "zoo"}


WORDS = [*ZOO, "head.dropout=0", "training.batch_norm=shared", "training.log_every_steps=1"]


@pytest.fixture(scope="module")
def runs(store: Store) -> dict[str, RunDir]:
    """Of two processes: in one go (whole, flat, again) and with a stop (parts). Of one: alone."""
    made = {name: make_run(store.root, name, WORDS) for name in ("whole", "parts", "flat", "again", "alone")}
    run_two_ranks(
        train_on_rank, str(store.root), *(str(made[name].root) for name in ("whole", "parts", "flat", "again"))
    )
    train_run(made["alone"], Ranks())
    return made


def test_two_processes_train_what_one_trains_and_resume_exactly(runs: dict[str, RunDir]) -> None:
    assert_same(latest(runs["parts"]), latest(runs["whole"]))
    for name, tensor in latest(runs["alone"]).head_state.items():
        torch.testing.assert_close(latest(runs["whole"]).head_state[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    for kind, name in (("step", "loss"), ("validation", "map")):
        found = [values(runs[run], kind, name) for run in ("whole", "alone")]
        assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_a_run_says_what_it_was_trained_and_scored_on(runs: dict[str, RunDir]) -> None:
    run = runs["alone"]
    kept = json.loads(run.provenance.read_text())
    assert {use: f"{item['dataset']}/{item['split']}" for use, item in kept["splits"].items()} == {
        "train": "toy/train",
        "validation": "toy/test",
        "train.zoo": "zoo/train",
        "validation.zoo": "zoo/test",
    }
    assert kept["feature_sets"].keys() == {*kept["splits"], "train_hflip", "train_hflip.zoo"}
    assert "validation mAP of each data set: toy 0." in told(run)
    assert ", zoo 0." in told(run)
    recipe = latest(run).recipe  # which the model card quotes
    assert (recipe.data.trained_on, recipe.validated_on) == ("toy/train and zoo/train", "toy/test and zoo/test")


def test_a_resumed_run_keeps_its_data_sets(store: Store, runs: dict[str, RunDir]) -> None:
    make_run(store.root, "alone", [*WORDS, "training.epochs=3", "data.additional=[]"])
    with pytest.raises(ConflictError, match=r"data.additional: \[.*'zoo'.*\] / \[\]"):
        train_run(runs["alone"], Ranks())
    make_run(store.root, "alone", [*WORDS, "training.epochs=3", "validation.datasets=[zoo]"])
    assert train_run(runs["alone"], Ranks())


def test_one_data_set_may_be_scored_alone(store: Store) -> None:
    alone = opened(store, "data.dataset=zoo").validation
    for words in (["validation.datasets=[zoo]"], ["validation.datasets=[toy, zoo]"], []):
        validation = opened(store, *ZOO, *words).validation
        scored = [item.key for item in validation.items if item.key.video.startswith("zoo/")]
        assert [(f"zoo/{item.key.video}", item.key.time_ms) for item in alone.items] == [
            (key.video, key.time_ms) for key in scored
        ]
        assert (len(scored) == len(validation)) == (words == ["validation.datasets=[zoo]"])


def test_each_data_set_holds_out_its_own_videos(store: Store) -> None:
    words = ["validation.split=null", "validation.held_out=0.4"]
    alone = [
        {item.key.video for item in opened(store, *words, f"data.dataset={name}").validation.items}
        for name in ("toy", "zoo")
    ]
    inputs = opened(store, *ZOO, *words)
    held_out = {item.key.video for item in inputs.validation.items}
    assert held_out == alone[0] | {f"zoo/{video}" for video in alone[1]}
    assert not held_out & {item.key.video for item in inputs.train.items}
    only = opened(store, *ZOO, *words, "validation.datasets=[toy]")
    assert {item.key.video for item in only.validation.items} == alone[0]
    assert len(only.train) > len(inputs.train)


def zoo_spec(store: Store, folder: Path, **spec: object) -> Store:
    """A copy of the store with the features of `zoo` made in another way."""
    store = Store.open(shutil.copytree(store.root, folder / "store"))
    shutil.rmtree(store.features_dir("zoo", "train"))
    zoo = [changed(item, zoo_frame) for item in scenes(TRAIN, 2)]
    write_split(store, "train", zoo, views=("identity",), dataset="zoo", labels=ZOO_LABELS, **spec)
    return store


def test_another_decoder_is_no_obstacle(store: Store, tmp_path: Path) -> None:
    other = zoo_spec(store, tmp_path, decoder="video")
    inputs = opened(other, *ZOO, "validation.datasets=[toy]")
    assert "decoders differ: toy png, zoo video" in inputs.notes
    assert any("no mirrored features of zoo (" in note for note in inputs.notes)
    zoo = [changed(item, zoo_frame) for item in scenes(TRAIN, 2)]
    write_split(other, "train", zoo, views=("identity",), dataset="zoo", labels=ZOO_LABELS, decoder="other")
    with pytest.raises(InputError, match=r"zoo/train has feature sets of several decoders, (video|other), "):
        opened(other, *ZOO, "validation.datasets=[toy]")
    write_split(other, "train", zoo, views=("identity",), dataset="zoo", labels=ZOO_LABELS)
    assert opened(other, *ZOO, "validation.datasets=[toy]").feature_sets["train.zoo"].spec.decoder == "png"


OTHER = (replace(toy_spec().backbones[0], weights="random:1"), toy_spec().backbones[1])


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"backbones": OTHER}, r"slowfast.weights: random:0 / random:1"),
        ({"dtype": "float32"}, r"dtype: float16 / float32"),
        ({"decoder": "a", "autocast": "bf16"}, r"autocast: none / bf16"),
    ],
)
def test_features_that_a_head_could_tell_apart_are_refused(
    store: Store, tmp_path: Path, spec: dict[str, object], text: str
) -> None:
    with pytest.raises(ConflictError, match=text):
        check_data(zoo_spec(store, tmp_path, **spec), parse_recipe(ACAR, ZOO), None, resume=False)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["data.additional=[toy]"], "dataset and additional are toy, toy; name each data set once"),
        ([*ZOO, "validation.datasets=[zo]"], "validation.datasets names zo, but the recipe trains on toy, zoo"),
        (
            [*ZOO, "data.boxes=both"],
            "boxes is both, layout is key_frames and bank_s is 0, but several .* additional to",
        ),
        ([*ZOO, "head={kind: relation}", "data.bank_s=5"], "and bank_s is 5, but"),
        ([*ZOO, "data.layout=rows"], "boxes is ground_truth, layout is rows"),
        (
            [*ZOO, "training.backbone=slowfast", "training.backbone_weights=random:0"],
            r"is \['zoo'\], but training.backbone",
        ),
        ([*ZOO, "validation.split=tset"], "toy/tset is not published"),
        (["data.additional=[zo]"], "zo/train is not published"),
        (
            [*ZOO, "loss={kind: pose_softmax, num_poses: 3}"],
            "zoo labels 2 of the 3 poses, and each .*loss.kind=sigmoid",
        ),
    ],
)
def test_what_cannot_be_trained_together_is_refused(store: Store, words: list[str], text: str) -> None:
    with pytest.raises(StalError, match=text):
        opened(store, *words)
