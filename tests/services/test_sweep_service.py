"""A sweep whose runs are jobs of a service."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.main import root
from cli.workflow.sweep.slots import ServiceSlot
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from tests.recognizer.toy_store import ACAR
from tests.services.conftest import Trained


def test_the_runs_are_jobs_of_the_service(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "toy.yaml").write_text(ACAR)
    words = [
        *("sweep", str(tmp_path / "toy.yaml"), "--store", str(trained.store.root)),
        *("--recognizer", trained.service.address, "--name", "jobs", "--output", str(tmp_path / "out")),
        *("--grid", "head.depth=0,1", "--seeds", "1", "--set", "training.epochs=1", "--test", "test", "--json"),
    ]
    done = CliRunner().invoke(root, words)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [run["status"] for run in found["runs"]] == ["succeeded"] * 2
    listed = CliRunner().invoke(root, ["jobs", "list", "--recognizer", trained.service.address, "--json"])
    jobs = {job["run_id"]: job for job in json.loads(listed.stdout)}
    for run in found["runs"]:
        job = jobs[run["run"]]
        assert (job["status"], job["attempt"], job["launch"]["nproc_per_node"]) == ("succeeded", 1, 1)
    assert len(found["test"]) == 1
    assert found["test"][0]["settings"] == found["chosen"]["settings"]
    again = CliRunner().invoke(root, words)
    assert json.loads(again.stdout)["runs"] == found["runs"]


@pytest.mark.slow
async def test_a_job_that_an_interrupted_sweep_left_is_watched_from_its_beginning(trained: Trained) -> None:
    request = pb.TrainRequest(
        run_id="left",
        recipe=ACAR,
        overrides=["training.epochs=100000", "training.log_every_steps=1", "validation.split=null"],
        launch=pb.Launch(nproc_per_node=1, backend="gloo"),
    )
    async with RecognizerClient(trained.service.client) as client:
        async for update in client.train(request):
            if update.event.WhichOneof("event") == "step":
                break
        resumed = pb.TrainRequest(run_id="left", recipe=ACAR, resume=True, launch=request.launch)
        seen = []
        async for update in ServiceSlot(client).train(resumed):
            seen.append(update)
            if update.event.WhichOneof("event") == "step":
                await client.cancel_job("left")
        numbers = [update.event.seq for update in seen if update.WhichOneof("update") == "event"]
        assert numbers == list(range(1, len(numbers) + 1))
        assert seen[-1].job.status == pb.JOB_STATUS_CANCELLED
        assert seen[-1].job.attempt == 1
