"""`cache verify` reads every file that decides a score, names damage, and tells files of earlier versions apart."""

import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from cache.backbones.weights import write_tensors
from cache.proposal_store import DetectorSpec, Proposals, write_proposals
from cache.split_store import split_file
from cache.store import Store
from cli.commands.cache import cache
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.run import train_run
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from tests.recognizer.conftest import make_run

DETECTOR = DetectorSpec(name="yolo", weights="sha256:00", height=180, width=320, confidence=0.3, library="x-1")


@pytest.fixture(scope="module")
def whole(toy_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one of everything; read only."""
    root = tmp_path_factory.mktemp("whole") / "store"
    shutil.copytree(toy_store.root, root)
    store = Store.open(root)
    train_run(make_run(root, "one", ["training.epochs=1"]), Ranks())
    write_tensors(root / "weights" / "w.safetensors", {"a": torch.ones(900)}, key="stal_backbone", metadata={"b": 1})
    write_proposals(
        store,
        Proposals(
            dataset="toy",
            split="test",
            key_frames=(KeyFrame("v", 1000),),
            offsets_K1=np.array([0, 1]),
            boxes_N4=np.array([[0, 0, 1, 1]], np.float32),
            scores_N=np.ones(1, np.float32),
            detector=DETECTOR,
        ),
    )
    return root


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Store:
    """A copy that a test may damage."""
    return Store.open(shutil.copytree(whole, tmp_path / "store"))


def verify(store: Store, *options: str) -> Result:
    return CliRunner().invoke(cache, ["verify", str(store.root), *options])


def test_a_sound_store_has_no_problem_and_no_file_without_a_checksum(whole):
    done = verify(Store.open(whole))
    assert done.exit_code == 0, done.output
    assert "runs/one: sound\n" in done.output
    assert "toy/test: the split is sound\n" in done.output
    assert "toy/test/yolo: proposals are sound\n" in done.output
    assert "weights/w.safetensors: sound\n" in done.output


@pytest.mark.parametrize(
    "name",
    [
        *("recipe.yaml", "label_map.pbtxt", "provenance.json", "events.jsonl"),
        *("checkpoints/latest.safetensors", "checkpoints/best.safetensors"),
        "../../weights/w.safetensors",
        "../../annotations/toy/train/split.h5",
        "../../proposals/toy/test/yolo.h5",
    ],
)
def test_a_flipped_bit_is_named(store, name):
    path = RunDir(store.runs_dir / "one").root.joinpath(name).resolve()
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 4
    path.write_bytes(content)
    done = verify(store)
    assert isinstance(done.exception, InputError)
    assert str(path) in str(done.exception)


@pytest.mark.parametrize("other", ["recipe.yaml", "label_map.pbtxt", "checkpoints/latest.safetensors"])
def test_damaged_events_are_named_beside_other_damage(store, other):
    run = RunDir(store.runs_dir / "one")
    for path in (run.events, run.root / other):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    problem = str(verify(store).exception)
    assert f"'{run.root / other}' is damaged" in problem
    assert f"of '{run.events}' is left out" in problem


@pytest.mark.parametrize("name", ["weights/w.safetensors", "runs/one/label_map.pbtxt", "runs/one/provenance.json"])
@pytest.mark.parametrize("damage", [lambda content: content[:40], lambda content: bytes(128) + content[128:]])
def test_a_file_whose_checksum_is_lost_is_named_when_it_does_not_read(store, name, damage):
    path = store.root / name
    path.write_bytes(damage(path.read_bytes()))
    assert path.name in str(verify(store).exception)


def _without_block(path: Path) -> None:
    path.write_bytes(path.read_bytes()[512:])


def test_files_of_earlier_versions_get_a_checksum_once(store):
    paths = [split_file(store, "toy", "test"), store.proposals_dir("toy", "test") / "yolo.h5"]
    before = [path.read_bytes() for path in paths]
    for path in paths:
        _without_block(path)
    assert str(verify(store).exception).count("carries no checksum") == 2
    repaired = verify(store, "--repair")
    assert repaired.exit_code == 0, repaired.output
    assert repaired.output.count("got a checksum") == 2
    assert [path.read_bytes() for path in paths] == before


def test_a_damaged_file_of_an_earlier_version_gets_none(store):
    path = split_file(store, "toy", "test")
    with h5py.File(path, "r+") as file:
        file["boxes_N4"][0, 0] += 0.01
    _without_block(path)
    done = verify(store, "--repair")
    assert "its content does not match its digest" in str(done.exception)
    path.write_bytes(path.read_bytes()[:3000])
    assert "split.h5' is damaged: " in str(verify(store, "--repair").exception)


def test_a_run_of_an_earlier_version_is_sound_and_says_what_it_lacks(store):
    run = RunDir(store.runs_dir / "one")
    for path in (run.recipe, run.label_map):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert "runs/one: sound; without a checksum: recipe.yaml, label_map.pbtxt\n" in verify(store).output


def test_verifying_needs_no_torch(whole):
    code = (
        "import sys; from cli.commands.cache import cache; "
        f"cache(['verify', {str(whole)!r}], standalone_mode=False); "
        "assert not {'torch', 'grpc'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
