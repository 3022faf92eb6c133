"""Joint training by the commands a user types and two real ranks."""

from pathlib import Path

import pytest

from recognizer_svc.runs.record import Launch
from recognizer_svc.runs.run_dir import JobFiles, RunDir
from recognizer_svc.service.launch import command
from tests.recognizer.joint_store import JOINT, VIT_WEIGHTS, make_joint_store
from tests.services.recognizer_process import stal_cli


@pytest.mark.slow
def test_train_precompute_predict(tmp_path: Path) -> None:
    made = make_joint_store(tmp_path)
    recipe, run = tmp_path / "joint.yaml", made.store.runs_dir / "live"
    recipe.write_text(JOINT)
    store, output = ("--store", str(made.store.root)), tmp_path / "live.csv"
    ranks = ("--nproc-per-node", "2", "--backend", "gloo")
    done = stal_cli("train", str(recipe), "--run-id", "live", "--data", str(made.dataset), *ranks, *store)
    assert done.returncode == 0, done.stderr + done.stdout
    where = ("--dataset", "noise", "--split", "test", "--boxes", "ground-truth", "--output", str(output))
    refused = stal_cli("predict", "--run", "live", *where, *store)
    assert refused.returncode == 1
    assert "--backbone slowfast=STORE/runs/RUN/slowfast.safetensors" in refused.stderr
    backbones = ("--slowfast", str(run / "slowfast.safetensors"), "--vit", VIT_WEIGHTS, "--vit-preset", "tiny")
    done = stal_cli("precompute", str(made.dataset), "--split", "test", *backbones, *store)
    assert done.returncode == 0, done.stderr
    done = stal_cli("predict", "--run", "live", *where, *store)
    assert done.returncode == 0, done.stderr
    # In float16 by default, where training saw float32: tolerated, and said.
    assert "dtype: float32 / float16" in done.stdout + done.stderr
    assert output.stat().st_size


def test_workers_are_told_the_data_root(tmp_path: Path) -> None:
    files = JobFiles(RunDir(tmp_path / "run"), 0)
    launch = Launch(nproc_per_node=1, backend="gloo")
    for data_root, words in ((None, []), (tmp_path, ["--data-root", str(tmp_path)])):
        found = command(files, launch, local_address="127.0.0.1", data_root=data_root)
        assert found[found.index("--backend") + 2 :] == words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("acar-joint", "--recognizer", "127.0.0.1:1"), "--data goes without --recognizer"),
        (("acar", "--store", "store"), "--data has no effect: recipe 'acar' trains no backbone"),
    ],
)
def test_where_data_is_no_option(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    done = stal_cli("train", *words, "--data", str(tmp_path))
    assert done.returncode == 2
    assert message in done.stderr
