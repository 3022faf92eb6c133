"""What joint training refuses, each time before the first step."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from cache.backbones.load import load_backbone
from cache.backbones.weights import save_backbone
from cache.precompute import PrecomputeOptions, precompute
from cache.store import Store
from recognizer_svc.runs.record import Launch
from recognizer_svc.runs.store import RunStore
from recognizer_svc.service.admission import Submission, check_submission
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.joint.sources import initial_weights, open_cached_set, open_dataset
from recognizer_svc.training.recipe import parse_recipe
from recognizer_svc.training.run import Run, train_run
from stal_data.dataset import Dataset
from stal_data.errors import ConflictError, InputError, NotFoundError
from tests.recognizer.joint_ranks import StopAfter
from tests.recognizer.joint_store import JOINT, VIT_WEIGHTS, JointStore, make_joint_store


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> JointStore:
    return make_joint_store(tmp_path_factory.mktemp("refusals"))


@pytest.fixture
def joint_store(made, tmp_path) -> JointStore:
    """A copy, to be spoilt."""
    shutil.copytree(made.store.root, tmp_path / "store")
    shutil.copytree(made.data_root, tmp_path / "data")
    return JointStore(store=Store.open(tmp_path / "store"), data_root=tmp_path / "data")


def start(joint_store: JointStore, *overrides: str, data_root: Path | None = None) -> Run:
    return Run(joint_store.run("run", *overrides), Ranks(), data_root=data_root or joint_store.data_root)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.folder=/etc", "data.folder is '/etc': must be a path relative to the folder"),
        ("data.folder=sets/../../other", "data.folder is .*without '..'"),
        ("training.backbone_weights=../slowfast.safetensors", "training.backbone_weights is .*without '..'"),
        ("training.backbone_weights=null", "backbone_weights must name a file"),
        ("training.backbone=none", "backbone_weights and backbone_preset need a backbone"),
        ("training.backbone=vitt", "There is no backbone 'vitt'. Did you mean 'vit'"),
        ("data.streams=[vit]", "it must hold slowfast, which training.backbone trains, and another"),
    ],
)
def test_recipes(override, message):
    with pytest.raises(InputError, match=message):
        parse_recipe(JOINT, [override])


def test_a_link_that_leads_out_of_the_data_root(joint_store, tmp_path):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "noise").symlink_to(joint_store.dataset)
    recipe = parse_recipe(JOINT, ["data.folder=noise"])
    with pytest.raises(InputError, match="'noise' is outside the service's data root"):
        open_dataset(recipe, tmp_path / "small")


def test_no_data_root(made):
    with pytest.raises(ConflictError, match=r"no data root.*--data-root DIR.*--data DATASET"):
        Run(made.run("rootless"), Ranks())


def test_another_data_set_in_the_folder(joint_store):
    path = joint_store.dataset / "dataset.yaml"
    path.write_text(path.read_text().replace("name: noise", "name: other"))
    with pytest.raises(InputError, match=r"'sets/noise' holds the data set 'other', but data\.dataset is 'noise'"):
        start(joint_store)


def test_missing_frames_are_listed(joint_store):
    for number in (21, 23):
        (joint_store.dataset / "frames" / "b" / f"b_{number:06d}.png").unlink()
    with pytest.raises(InputError, match=r"(?s)Nothing was trained: \d problems.*b_000021\.png does not exist"):
        start(joint_store)


def test_frames_that_are_not_those_of_the_cache(joint_store):
    run = start(joint_store)
    Image.new("RGB", (64, 48)).save(joint_store.dataset / "frames" / "b" / "b_000051.png")
    with pytest.raises(InputError, match=r"frames of b,000\d are not those that its cached features were made from"):
        run.inputs.train.load(range(9), epoch=1)


def test_no_mirrored_vit_features(joint_store):
    identity = open_cached_set(joint_store.store, "noise", "train", "slowfast")
    shutil.rmtree(identity.path.parent / identity.spec.with_view("hflip").id)
    with pytest.raises(NotFoundError, match=r"noise/train has no mirrored twin.*--view hflip.*hflip_probability=0"):
        start(joint_store)
    assert "train_hflip" not in start(joint_store, "data.hflip_probability=0").inputs.feature_sets


def test_no_vit_features_of_the_validation_split(joint_store):
    shutil.rmtree(open_cached_set(joint_store.store, "noise", "test", "slowfast").path)
    with pytest.raises(NotFoundError, match=f"noise/test has no features of vit tiny .{VIT_WEIGHTS}."):
        start(joint_store)


def test_sets_without_or_with_several_vits(joint_store):
    split = Dataset.open(joint_store.dataset).split("train")
    slowfast = load_backbone("slowfast", weights="random:0", preset="tiny")
    (alone,) = precompute(split, joint_store.store, PrecomputeOptions(backbones=[slowfast], decode_threads=1))
    with pytest.raises(InputError, match=f"data.feature_set {alone.id} holds no features but those of slowfast"):
        start(joint_store, f"data.feature_set={alone.id}")
    assert start(joint_store)  # it does not count
    other = load_backbone("vit", weights="random:6", preset="tiny")
    precompute(split, joint_store.store, PrecomputeOptions(backbones=[other], decode_threads=1))
    with pytest.raises(InputError, match=r"several sets of features beside those of slowfast; choose one with data"):
        start(joint_store)


def test_initial_weights(joint_store):
    recipe = parse_recipe(JOINT, ["training.backbone_weights=mine.safetensors", "training.backbone_preset=null"])
    with pytest.raises(NotFoundError, match=r"'mine\.safetensors' does not exist in .*weights'"):
        initial_weights(recipe, joint_store.store)
    target = joint_store.store.weights_dir / "mine.safetensors"
    vit = load_backbone("vit", weights="random:0", preset="tiny")
    save_backbone(target, vit.model, kind="vit", preset="tiny", config=vit.model.config, provenance={})
    overrides = ("training.backbone_weights=mine.safetensors", "training.backbone_preset=null")
    with pytest.raises(InputError, match="is a vit backbone; a slowfast one is asked for"):
        start(joint_store, *overrides)
    slowfast = load_backbone("slowfast", weights="random:0", preset="tiny")
    save_backbone(target, slowfast.model, kind="slowfast", preset="tiny", config=slowfast.model.config, provenance={})
    assert start(joint_store, *overrides).inputs.joint.backbone.spec.preset == "tiny"


def test_resuming_from_other_weights(joint_store):
    assert not train_run(joint_store.run("run"), Ranks(), StopAfter(1), joint_store.data_root)
    with pytest.raises(ConflictError, match=r"training\.backbone_weights: random:3 / random:4"):
        start(joint_store, "training.backbone_weights=random:4")


def test_a_service_refuses_at_once(made):
    def submit(*overrides: str, data_root: Path | None) -> None:
        launch = Launch(nproc_per_node=1, backend="gloo")
        submission = Submission(run_id="asked", recipe=JOINT, overrides=overrides, launch=launch)
        check_submission(RunStore.of(made.store), submission, data_root)

    with pytest.raises(ConflictError, match="has no data root"):
        submit(data_root=None)
    with pytest.raises(NotFoundError, match="'noise' does not exist below the service's data root"):
        submit("data.folder=null", data_root=made.data_root)
    with pytest.raises(NotFoundError, match=r"'none\.safetensors' does not exist"):
        submit("training.backbone_weights=none.safetensors", data_root=made.data_root)
    assert not (made.store.runs_dir / "asked").exists()
