"""Joint training from the recipe to predictions: two ranks, a stop, the export, precompute, predict."""

import json
import shutil

import numpy as np
import pytest
import torch

from cache.backbones.load import load_backbone
from cache.precompute import PrecomputeOptions, precompute
from cache.split_store import load_split
from recognizer_svc.packed_models.description import read_packed_model
from recognizer_svc.packed_models.install import install
from recognizer_svc.packed_models.pack import Belongings, pack_run
from recognizer_svc.runs.events import read_events
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.scoring.predict import BoxesOfKeyFrame, Predictor
from recognizer_svc.training.checkpoint import load_checkpoint
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.joint.sources import open_cached_set
from recognizer_svc.training.recipe import load_recipe
from recognizer_svc.training.run import train_run
from recognizer_svc.training.validation import mean_average_precision
from stal_data.dataset import Dataset
from stal_data.errors import ConflictError
from tests.recognizer.joint_ranks import StopAfter, run_rank
from tests.recognizer.joint_store import VIT_WEIGHTS, JointStore, make_joint_store
from tests.recognizer.run_results import assert_same, latest
from tests.recognizer.two_ranks import run_two_ranks

# Nine clips in steps of two: the last step of an epoch leaves the second rank without any.
TWO_RANKS = ("training.batch_clips=2", "training.log_every_steps=1", "head.dropout=0.2")


@pytest.fixture(scope="module")
def joint_store(tmp_path_factory) -> JointStore:
    return make_joint_store(tmp_path_factory.mktemp("joint"))


@pytest.fixture(scope="module")
def trained(joint_store, tmp_path_factory) -> tuple[RunDir, RunDir]:
    """A run of two ranks, and the same one with a stop."""
    runs = joint_store.run("whole", *TWO_RANKS), joint_store.run("parts", *TWO_RANKS)
    run_two_ranks(
        run_rank, str(tmp_path_factory.mktemp("ranks")), str(joint_store.data_root), *(str(run.root) for run in runs)
    )
    return runs


def test_two_ranks_resume_exactly(trained):
    whole, parts = (load_checkpoint(run.checkpoint("latest")) for run in trained)
    for name, tensor in whole.head_state.items():
        assert torch.equal(parts.head_state[name], tensor), name
    for name, tensor in whole.backbone_state.items():
        assert torch.equal(parts.backbone_state[name], tensor), name
    for number, state in whole.optimizer_state["state"].items():
        assert torch.equal(parts.optimizer_state["state"][number]["momentum_buffer"], state["momentum_buffer"])
    assert whole.feature_spec == parts.feature_spec
    initial = load_backbone("slowfast", weights="random:3", preset="tiny").model.state_dict()
    assert not torch.equal(whole.backbone_state["slow_conv1.weight"], initial["slow_conv1.weight"])
    for name in ("fast_bn1.running_mean", "fast_bn1.running_var", "fast_bn1.num_batches_tracked"):
        assert torch.equal(whole.backbone_state[name], initial[name])


def test_what_a_joint_run_says_of_itself(trained):
    events = list(read_events(trained[0].events))
    said = " ".join(event.values["message"] for event in events if event.type == "log")
    assert "SlowFast (tiny, from random:3) is trained with the head on the frames of" in said
    assert f"SlowFast is in {trained[0].backbone_files('slowfast')[0]}" in said
    provenance = json.loads(trained[0].provenance.read_text())
    assert provenance["backbone"]["weights"] == "random:3"
    assert provenance["starts"][0]["world_size"] == 2
    assert not trained[0].backbone_files("slowfast")[1].exists()


def test_the_exported_weights_fill_the_cache_that_prediction_reads(trained, joint_store, tmp_path):
    """The scores from the cache are those that the validation of the live network saw."""
    run = trained[0]
    predictor = Predictor.load(run.root, device="cpu")
    with pytest.raises(ConflictError, match=r"precompute the split with .*--backbone slowfast=STORE/runs/RUN/slowfast"):
        predictor.open_features(joint_store.store, "noise", "test")

    slowfast = load_backbone("slowfast", weights=str(run.backbone_files("slowfast")[0]))
    assert slowfast.spec == predictor.feature_spec.backbone("slowfast")
    assert slowfast.spec.trained
    vit = load_backbone("vit", weights=VIT_WEIGHTS, preset="tiny")
    split = Dataset.open(joint_store.dataset).split("test")
    (features,) = precompute(
        split, joint_store.store, PrecomputeOptions(backbones=[slowfast, vit], dtype="float32", decode_threads=1)
    )
    assert features.spec == predictor.feature_spec
    opened = predictor.open_features(joint_store.store, "noise", "test")
    assert opened.id == features.id

    published = load_split(joint_store.store, "noise", "test")
    people = [BoxesOfKeyFrame(key=item.key, boxes_N4=item.boxes_N4) for item in published.key_frames]
    scores_NC = np.concatenate([item.scores_NC for item in predictor.predict(opened, people)])
    targets_NC = np.zeros_like(scores_NC)
    rows = [ids for item in published.key_frames for ids in item.labels]
    for row, ids in enumerate(rows):
        targets_NC[row, [published.label_map.index_of(label_id) for label_id in ids]] = 1
    validation = [event.values for event in read_events(run.events) if event.type == "validation"][-1]
    assert mean_average_precision(scores_NC, targets_NC) == pytest.approx(validation["map"], abs=1e-9)
    probabilities = np.where(targets_NC == 1, scores_NC, 1 - scores_NC).astype(np.float64)
    # The same network in other batches: only the order of float32 sums differs.
    assert -np.log(probabilities).mean() == pytest.approx(validation["loss"], rel=1e-5)

    pack_run(run, tmp_path / "packed", Belongings())
    model = read_packed_model(tmp_path / "packed")
    assert model.backbone_file("slowfast").read_bytes() == run.backbone_files("slowfast")[0].read_bytes()
    installed = Predictor.load(joint_store.store.runs_dir / install(model, joint_store.store), device="cpu")
    again_NC = np.concatenate([item.scores_NC for item in installed.predict(opened, people)])
    assert again_NC.tobytes() == scores_NC.tobytes()

    untrained = load_backbone("slowfast", weights="random:3", preset="tiny")
    (other,) = precompute(
        split, joint_store.store, PrecomputeOptions(backbones=[untrained, vit], dtype="float32", decode_threads=1)
    )
    with pytest.raises(ConflictError, match=r"slowfast\.weights.*precompute the split with the weights that the run"):
        predictor.open_features(joint_store.store, "noise", "test", set_id=other.id)


def test_a_joint_run_can_be_made_longer_and_keeps_the_best(joint_store, tmp_path):
    """Sets that SlowFast has joined since do not confuse a resumed run; each kept checkpoint has its weights."""
    run = joint_store.run("longer", "validation.keep_best=true", "training.epochs=1", "training.batch_clips=4")
    assert train_run(run, Ranks(), data_root=joint_store.data_root)
    joint_store.run("longer", "validation.keep_best=true", "training.epochs=3", "training.batch_clips=4")
    moved = tmp_path / "elsewhere"
    shutil.copytree(joint_store.dataset, moved / "copy")
    identity = open_cached_set(joint_store.store, "noise", "train", "slowfast")
    found_elsewhere = ["data.folder=copy", f"data.feature_set={identity.id}"]
    run.recipe.write_text(load_recipe(run.recipe, found_elsewhere).to_yaml())
    assert train_run(run, Ranks(), data_root=moved)
    for name, path in zip(("best", "latest"), run.backbone_files("slowfast"), strict=True):
        checkpoint = load_checkpoint(run.checkpoint(name))
        if name == "latest" and not path.exists():
            assert checkpoint.progress.best.epoch == checkpoint.progress.epochs_done
            continue
        assert load_backbone("slowfast", weights=str(path)).spec == checkpoint.feature_spec.backbone("slowfast")


def test_both_networks_are_averaged_exported_and_resumed_exactly(joint_store):
    options = ["training.ema_decay=0.9", "training.autocast=bf16", "training.batch_clips=3"]
    whole, parts = joint_store.run("averaged", *options), joint_store.run("averaged-parts", *options)
    assert train_run(whole, Ranks(), data_root=joint_store.data_root)
    assert not train_run(parts, Ranks(), StopAfter(2), joint_store.data_root)
    assert train_run(parts, Ranks(), data_root=joint_store.data_root)
    found = latest(whole)
    assert_same(latest(parts), found)
    name = "slow_conv1.weight"
    assert not torch.equal(found.unaveraged[f"backbone.{name}"], found.backbone_state[name])
    exported = load_backbone("slowfast", weights=str(whole.backbone_files("slowfast")[0]))
    assert torch.equal(exported.model.state_dict()[name], found.backbone_state[name])
    assert exported.spec == found.feature_spec.backbone("slowfast")


def test_a_stopped_run_exports_nothing(joint_store):
    run = joint_store.run("stopped")
    assert not train_run(run, Ranks(), StopAfter(1), joint_store.data_root)
    assert not run.backbone_files("slowfast")[0].exists()
    assert load_checkpoint(run.checkpoint("latest")).backbone_state is not None
