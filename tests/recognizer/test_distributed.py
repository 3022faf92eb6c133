"""Two real gloo processes do what one would; a batch's actors may fall to the ranks in any way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from recognizer_svc.runs.events import read_events
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.training.checkpoint import load_checkpoint
from recognizer_svc.training.distributed import Ranks, connect
from recognizer_svc.training.recipe import parse_recipe
from recognizer_svc.training.run import train_run
from stal_data.errors import InputError
from tests.recognizer.gloo_ranks import make_trainer, run_rank, train_steps
from tests.recognizer.toy_store import ACAR
from tests.recognizer.two_ranks import run_two_ranks

REPOSITORY = Path(__file__).parent.parent.parent
RUN = ["training.batch_norm=shared", "head.dropout=0", "training.epochs=1", "training.log_every_steps=1"]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory, toy_store):
    """Results of both ranks, and the run they trained together."""
    folder = tmp_path_factory.mktemp("ranks")
    shutil.copytree(toy_store.root, folder / "store")
    run_dir = RunDir(folder / "store" / "runs" / "two-ranks")
    run_dir.root.mkdir(parents=True)
    run_dir.recipe.write_text(parse_recipe(ACAR, RUN).to_yaml())
    run_two_ranks(run_rank, str(folder), str(run_dir.root))
    ranks = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    return ranks, run_dir, torch.load(folder / "run.pt", weights_only=True), folder


@pytest.fixture(scope="module")
def one_process():
    trainer = make_trainer(Ranks())
    return train_steps(trainer, None), trainer.head.state_dict()


def test_two_ranks_train_the_same_head_as_one_process(two_ranks, one_process):
    """With unequal numbers of actors, with none on one rank, and with no clip at all on it."""
    losses, weights = one_process
    for found in two_ranks[0]:
        assert found["losses"] == pytest.approx(losses, rel=1e-6)
        for name, expected in weights.items():
            # Sums in another order, four steps of momentum.
            torch.testing.assert_close(found["weights"][name], expected, rtol=1e-5, atol=1e-6, msg=name)


def test_a_step_without_any_actor_is_skipped_by_all(two_ranks):
    for found in two_ranks[0]:
        assert found["actors of an empty step"] == 0
        for name, expected in found["weights"].items():
            assert torch.equal(found["weights after it"][name], expected)


def test_a_stop_requested_from_one_rank_stops_both_after_the_same_step(two_ranks):
    assert [found["stops"] for found in two_ranks[0]] == [True, True]


def test_a_non_finite_loss_on_one_rank_stops_both_before_the_step(two_ranks):
    for found in two_ranks[0]:
        assert "not finite on 1 of 2 ranks" in found["error"]
        assert found["changed by it"] == []


def test_a_whole_run_on_two_ranks_equals_one_on_one(two_ranks, new_run):
    """Same recipe, same clips a step, same augmentation, same BatchNorm statistics; dropout is switched off."""
    _, together, weights, _ = two_ranks
    alone = new_run("one-rank", RUN)
    train_run(alone, Ranks())
    expected = load_checkpoint(alone.checkpoint("latest"))
    for name, tensor in expected.head_state.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    series = []
    for run in (together, alone):
        found = list(read_events(run.events))
        series.append([event.values["loss"] for event in found if event.type == "step"])
        series.append([event.values["map"] for event in found if event.type == "validation"])
    assert series[0] == pytest.approx(series[2], rel=1e-5)
    assert series[1] == pytest.approx(series[3], abs=1e-3)
    assert json.loads(together.provenance.read_text())["starts"][0]["world_size"] == 2


def test_all_ranks_go_on_from_the_checkpoint_of_rank_0(two_ranks):
    _, _, weights, folder = two_ranks
    for rank in (0, 1):
        again = torch.load(folder / f"again{rank}.pt", weights_only=True)
        assert again["epochs"] == 1
        for name, tensor in weights.items():
            assert torch.equal(again["weights"][name], tensor), name


def test_machines_with_different_recipes_do_not_train(two_ranks):
    first, second = (torch.load(two_ranks[3] / f"again{rank}.pt", weights_only=True) for rank in (0, 1))
    assert "error" not in first
    assert second["error"].startswith("The machines of this job were given different recipes, in data;")


def launch(run_dir: RunDir, module: str = "recognizer_svc.training.worker") -> subprocess.Popen[bytes]:
    """A job as the service starts it."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node=2")
    worker = ("-m", module, "--job-dir", str(run_dir.root), "--backend", "gloo")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    with (run_dir.root / "job.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *launcher, *worker], stdout=log, stderr=log, env=environment, start_new_session=True
        )


def kinds(run_dir: RunDir) -> list[str]:
    return [event.type for event in read_events(run_dir.events)]


def test_a_job_that_gets_sigterm_saves_its_step_and_goes_on_later(new_run):
    run_dir = new_run("job", ["training.epochs=100000", "validation.split=null", "training.log_every_steps=1"])
    job = launch(run_dir)
    try:
        deadline = time.monotonic() + 120
        while "step" not in kinds(run_dir):
            assert job.poll() is None, (run_dir.root / "job.log").read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        job.send_signal(signal.SIGTERM)
        assert job.wait(timeout=250) != 0
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    assert "stopped on request" in list(read_events(run_dir.events))[-1].values["message"]
    stopped = load_checkpoint(run_dir.checkpoint("latest")).progress
    assert stopped.epochs_done or stopped.steps_done

    new_run("job", [f"training.epochs={stopped.epochs_done + 1}", "validation.split=null"])
    assert train_run(run_dir, Ranks())  # on another number of processes
    assert kinds(run_dir)[-1] == "done"
    assert load_checkpoint(run_dir.checkpoint("latest")).progress.epochs_done == stopped.epochs_done + 1


def test_a_rank_that_fails_does_not_wait_for_the_others(new_run):
    """With a process group whose end never comes, as nccl's may be after an error."""
    run_dir = new_run("failing", ["training.epochs=100000", "validation.split=null"])
    job = launch(run_dir, "tests.recognizer.failing_worker")
    try:
        assert job.wait(timeout=250) == 1
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    assert "InputError: only rank 1 knows why" in (run_dir.root / "job.log").read_text()


def test_loopback_is_refused_between_machines(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(InputError, match="GLOO_SOCKET_IFNAME is 'lo', but the job runs on several machines"),
        connect("gloo", timeout_s=1, rank=0, world_size=2),
    ):
        pass


def test_nccl_without_a_gpu_is_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with (
        pytest.raises(InputError, match="no CUDA device; use --backend gloo"),
        connect("nccl", timeout_s=1, rank=0, world_size=1),
    ):
        pass
