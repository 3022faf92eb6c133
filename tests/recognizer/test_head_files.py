"""Head files: as the start of a training, and as a run that scores without one."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from cache.backbones.load import load_backbone
from cache.precompute import PrecomputeOptions, precompute
from cache.store import Store
from cli.commands.runs import runs
from recognizer_svc.heads import build_head
from recognizer_svc.heads.acar.config import AcarConfig
from recognizer_svc.runs.events import read_events
from recognizer_svc.runs.record import Launch
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.runs.store import RunStore
from recognizer_svc.scoring.engine import Engine
from recognizer_svc.scoring.model_list import list_models
from recognizer_svc.scoring.predict import BoxesOfKeyFrame, Predictor
from recognizer_svc.scoring.queries import PredictQuery
from recognizer_svc.scoring.served_models import ServedModels
from recognizer_svc.service.admission import Submission, queue_job
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.head_file import HeadInfo, load_head_file, save_head
from recognizer_svc.training.import_run import import_run
from recognizer_svc.training.recipe import parse_recipe
from recognizer_svc.training.run import Run, train_run
from stal_data.clips import clip_frames
from stal_data.errors import ConflictError, InputError, NotFoundError
from stal_data.preprocess import preprocess_clip
from tests.cache.samples import make_split
from tests.recognizer.feature_maps import feature_shapes
from tests.recognizer.test_acar_head import pooled
from tests.recognizer.test_predict import people_of
from tests.recognizer.tiny_checkpoint import import_tiny, write_checkpoint
from tests.recognizer.toy_store import ACAR

SHAPES = feature_shapes(slow=(6, 8, 12), fast=(3, 8, 12), vit=(5, 10, 14), vit_frames=2)
OTHER_SHAPES = replace(SHAPES, arrays={**SHAPES.arrays, "slow": (7, 8, 12)})
INFO = HeadInfo(
    section=AcarConfig(reduce_channels=16, context_channels=12, depth=1),
    shapes=SHAPES,
    num_classes=4,
    backbones={"slowfast": "random:0", "vit": "random:0"},
    epoch=7,
    provenance={"imported_from": "ckpt.pth.tar"},
)


def write_head(path: Path, info: HeadInfo = INFO, seed: int = 5) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    state = build_head(info.section, info.shapes, info.num_classes).state_dict()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_head(path, state, info)
    return state


def notes_of(run_dir: RunDir) -> str:
    return "\n".join(event.values["message"] for event in read_events(run_dir.events) if event.type == "log")


def test_training_starts_from_the_file(new_run):
    run_dir = new_run("from-file", ["training.init_head=published/head.safetensors", "training.epochs=1"])
    state = write_head(run_dir.store_root / "weights" / "published" / "head.safetensors")
    started = Run(run_dir, Ranks()).head.state_dict()
    assert all(torch.equal(started[name], tensor) for name, tensor in state.items())
    train_run(run_dir, Ranks())
    assert "the head starts from weights/published/head.safetensors" in notes_of(run_dir)
    assert len(json.loads(run_dir.provenance.read_text())["starts"][0]["init_head"]) == 64
    # A run that is stopped goes on from its own checkpoint, whatever happens to the file.
    (run_dir.store_root / "weights" / "published" / "head.safetensors").unlink()
    resumed = Run(run_dir, Ranks())
    assert not torch.equal(resumed.head.state_dict()["fc1.weight"], state["fc1.weight"])


def test_another_label_map_needs_a_new_classifier_and_says_so(new_run):
    setting = "training.init_head=head.safetensors"
    run_dir = new_run("mismatch", [setting])
    state = write_head(run_dir.store_root / "weights" / "head.safetensors", replace(INFO, num_classes=50))
    with pytest.raises(InputError, match=r"has 50 classes and the label map 4.*new_classifier"):
        Run(run_dir, Ranks())
    run_dir = new_run("renewed", [setting, "training.new_classifier=true", "training.epochs=1"])
    plain = Run(new_run("plain"), Ranks()).head.state_dict()
    started = Run(run_dir, Ranks()).head.state_dict()
    assert torch.equal(started["fc2.weight"], plain["fc2.weight"])
    assert all(torch.equal(started[name], tensor) for name, tensor in state.items() if name != "fc2.weight")
    train_run(run_dir, Ranks())
    assert "classifier (50 classes) is left out; one for 4 classes starts anew" in notes_of(run_dir)


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (replace(INFO, section=INFO.section.model_copy(update={"depth": 2})), r"head\.depth 2 / 1"),
        (
            replace(INFO, shapes=replace(SHAPES, arrays={**SHAPES.arrays, "slow": (7, 8, 12)})),
            r"slow \(7, 8, 12\) / \(6, 8, 12\)",
        ),
    ],
)
def test_another_head_or_other_features_are_refused(new_run, info, message):
    run_dir = new_run("other", ["training.init_head=head.safetensors"])
    write_head(run_dir.store_root / "weights" / "head.safetensors", info)
    with pytest.raises(ConflictError, match=message):
        Run(run_dir, Ranks())


def test_other_backbone_weights_are_said(new_run):
    run_dir = new_run("other", ["training.init_head=head.safetensors", "training.epochs=1"])
    write_head(run_dir.store_root / "weights" / "head.safetensors", replace(INFO, backbones={"vit": "sha256:ab"}))
    train_run(run_dir, Ranks())
    assert "other backbone weights (head / here): vit: sha256:ab / random:0" in notes_of(run_dir)


@pytest.mark.parametrize("name", ["../head.safetensors", "/etc/passwd", "a/../../head.safetensors"])
def test_a_recipe_names_no_file_outside_the_store(name):
    with pytest.raises(InputError, match="relative to the folder"):
        parse_recipe(ACAR, [f"training.init_head={name}"])


def test_a_link_leads_nowhere_outside_the_store(new_run, tmp_path):
    run_dir = new_run("link", ["training.init_head=link.safetensors"])
    write_head(tmp_path / "outside.safetensors")
    (run_dir.store_root / "weights").mkdir()
    (run_dir.store_root / "weights" / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    with pytest.raises(InputError, match="is outside"):
        Run(run_dir, Ranks())


def test_a_missing_or_foreign_file_is_a_clear_error(new_run):
    run_dir = new_run("gone", ["training.init_head=haed.safetensors"])
    write_head(run_dir.store_root / "weights" / "head.safetensors")
    with pytest.raises(NotFoundError, match=r"haed.*Did you mean 'head.safetensors'"):
        Run(run_dir, Ranks())
    save_file({"a": torch.ones(1)}, run_dir.store_root / "weights" / "haed.safetensors")
    with pytest.raises(InputError, match=r"is no head file of this program.*weights import"):
        Run(run_dir, Ranks())


def test_tensors_that_are_missing_or_do_not_fit_are_refused(new_run):
    """Else the part of the head that the file lacks would start at random without a word."""
    run_dir = new_run("partial", ["training.init_head=head.safetensors"])
    path = run_dir.store_root / "weights" / "head.safetensors"
    state = write_head(path)
    del state["fc1.weight"]
    save_head(path, state | {"hr2o.0.conv.weight": torch.ones(3), "stranger": torch.ones(1)}, INFO)
    with pytest.raises(InputError, match=r"does not hold the head.*fc1\.weight, hr2o\.0\.conv\.weight, stranger"):
        Run(run_dir, Ranks())


def test_new_classifier_alone_is_refused():
    with pytest.raises(InputError, match="new_classifier needs init_head"):
        parse_recipe(ACAR, ["training.new_classifier=true"])


@pytest.fixture
def store(toy_store: Store, tmp_path: Path) -> Store:
    shutil.copytree(toy_store.root, tmp_path / "store")
    return Store.open(tmp_path / "store")


def imported(store: Store, info: HeadInfo = INFO, **options) -> RunDir:
    write_head(store.weights_dir / "head.safetensors", info)
    return import_run(
        store, store.weights_dir / "head.safetensors", parse_recipe(ACAR), run_id="published", split="test", **options
    )


def test_an_imported_head_scores_as_the_service_does(store):
    run_dir = imported(store)
    head = build_head(INFO.section, SHAPES, 4).eval()
    head.load_state_dict(load_head_file(store.weights_dir / "head.safetensors")[1])
    engine = Engine(store, device="cpu", served=ServedModels())
    query = PredictQuery(run_id="published", checkpoint="", dataset="toy", split="test", proposals=None, feature_set="")
    answer = engine.prepare(query)
    assert (answer.model.epoch, answer.model.head) == (7, "acar")
    found = list(answer.scored)
    predictor = Predictor.load(run_dir.root, device="cpu")
    wanted = predictor.predict(predictor.open_features(store, "toy", "test"), people_of(store, "test"))
    assert all(torch.equal(tensor, head.state_dict()[name]) for name, tensor in predictor.checkpoint.head_state.items())
    by_key = {item.key: item for item in wanted}
    assert len(found) > 10
    assert all(np.array_equal(item.scores_NC, by_key[item.key].scores_NC) for item in found)
    assert [model.run_id for model in list_models(store)] == ["published"]


def test_what_a_killed_import_left_goes_with_the_next(store):
    code = (
        "import os, sys; from cache.store import Store; from recognizer_svc.training import import_run; "
        "from tests.recognizer.test_head_files import imported; "
        "import_run.save_checkpoint = lambda *_: os.kill(os.getpid(), 9); imported(Store.open(sys.argv[1]))"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(store.root)], cwd=Path(__file__).parents[2])
    assert killed.returncode == -9
    assert [path.name.startswith(".") for path in store.runs_dir.iterdir()] == [True]
    run_dir = imported(store)
    assert list(store.runs_dir.iterdir()) == [run_dir.root]


def test_an_imported_run_is_listed_and_neither_replaced_nor_resumed(store):
    run_dir = imported(store)
    (summary,) = RunStore.of(store).summaries()
    assert (summary.run_id, summary.status) == ("published", "imported")
    assert (summary.epochs_done, summary.epochs) == (7, 7)
    with pytest.raises(ConflictError, match="exists"):
        imported(store)
    refused = pytest.raises(ConflictError, match=r"was imported.*training\.init_head")
    with refused:
        Run(run_dir, Ranks())
    launch = Launch(nproc_per_node=1, backend="gloo", nnodes=1, node_rank=0, rdzv_endpoint="", max_restarts=0)
    with refused:
        queue_job(RunStore.of(store), Submission(run_id="published", recipe="", resume=True, launch=launch), None)
    (summary,) = RunStore.of(store).summaries()
    assert summary.status == "imported"
    assert [path.name for path in store.runs_dir.iterdir()] == ["published"]


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (replace(INFO, num_classes=50), "has 50 classes and the label map 4"),
        (replace(INFO, backbones={"slowfast": "sha256:ab"}), "other backbone weights .*sha256:ab / random:0"),
        (replace(INFO, section=INFO.section.model_copy(update={"context_channels": 8})), "context_channels 8 / 12"),
    ],
)
def test_what_would_score_without_meaning_is_refused(store, info, message):
    with pytest.raises((InputError, ConflictError), match=message):
        imported(store, info)
    assert not store.runs_dir.exists() or not list(store.runs_dir.iterdir())


def test_from_a_published_checkpoint_to_scores(tmp_path):
    """Import, precompute, make a run, score: the same numbers as the whole network on the decoded clip."""
    frames = tmp_path / "frames"
    for number in range(1, 26):
        path = frames / "v0" / f"v0_{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 255, (36, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    split = make_split(frames, videos=1, seconds=1)
    store = Store.open(tmp_path / "store", create=True)
    import_tiny(write_checkpoint(tmp_path / "c.pth.tar", num_classes=2), store.weights_dir)
    slowfast, vit = (
        load_backbone(kind, weights=str(store.weights_dir / f"{kind}.safetensors")) for kind in ("slowfast", "vit")
    )
    precompute(split, store, PrecomputeOptions(backbones=[slowfast, vit], dtype="float32"))
    # The features of other backbones beside them are not taken.
    stranger = load_backbone("slowfast", weights="random:9", preset="tiny")
    precompute(split, store, PrecomputeOptions(backbones=[stranger, vit], dtype="float32"))
    arguments = ["import", str(store.weights_dir / "head.safetensors"), "--store", str(store.root)]
    arguments += ["--run-id", "published", "--dataset", "street", "--split", "train"]
    head_section = "head={kind: acar, reduce_channels: 16, context_channels: 12, depth: 1}"
    done = CliRunner().invoke(runs, [*arguments, "--set", "loss={kind: sigmoid}", "--set", head_section])
    assert done.exit_code == 0, done.output
    predictor = Predictor.load(store.runs_dir / "published", device="cpu")
    features = predictor.open_features(store, "street", "train")
    assert features.spec.backbone("slowfast").weights == slowfast.spec.weights
    item = split.key_frames[0]
    (found,) = predictor.predict(features, [BoxesOfKeyFrame(key=item.key, boxes_N4=item.boxes_N4)])
    frames_THW3 = split.media.read("v0", clip_frames(item.window))
    with torch.inference_mode():
        maps, grid = (
            model(torch.from_numpy(preprocess_clip(frames_THW3, spec.height, spec.width))[None])
            for model, spec in ((slowfast.model, slowfast.spec), (vit.model, vit.spec))
        )
        info, state = load_head_file(store.weights_dir / "head.safetensors")
        head = build_head(info.section, info.shapes, info.num_classes).eval()
        head.load_state_dict(state)
        rois_N5 = torch.cat([torch.zeros(1, 1), torch.from_numpy(item.boxes_N4)], dim=1)
        logits = head(pooled(maps["slow"], maps["fast"], grid["vit"], rois_N5))
    np.testing.assert_allclose(found.scores_NC, torch.sigmoid(logits).numpy(), atol=1e-5)
