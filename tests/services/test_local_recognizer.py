"""Training and scoring in the process of a command, without a service."""

import asyncio

import pytest

from cache.store import Store
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from recognizer_svc.local import LocalRecognizer
from recognizer_svc.runs.record import JobStatus, read_record
from recognizer_svc.runs.run_dir import JobFiles, RunDir
from recognizer_svc.service.jobs import JobManager
from recognizer_svc.training.checkpoint import load_checkpoint
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.run import train_run
from stal_data.errors import ConflictError
from tests.recognizer.conftest import make_run
from tests.recognizer.toy_store import ACAR
from tests.services.conftest import TRAINED, Trained
from tests.services.job_scripts import LIMITS, submission

ENDLESS = ("training.epochs=100000", "training.log_every_steps=1", "validation.split=null")


def request(run_id: str, overrides: tuple[str, ...] = (), **changes: object) -> pb.TrainRequest:
    launch = pb.Launch(nproc_per_node=1, backend="gloo")
    return pb.TrainRequest(run_id=run_id, recipe=ACAR, overrides=overrides, launch=launch, **changes)


def status_of(store: Store, run_id: str) -> JobStatus:
    record = read_record(JobFiles(RunDir(store.runs_dir / run_id)).record)
    assert record is not None
    return record.status


async def until_first_step(recognizer: LocalRecognizer, run_id: str) -> None:
    async for update in recognizer.train(request(run_id, ENDLESS)):
        if update.event.WhichOneof("event") == "step":
            return


async def test_a_training_writes_the_bytes_of_a_plain_run_and_tells_every_event(store: Store) -> None:
    plain = make_run(store.root, "plain", ["validation.split=null"])
    assert await asyncio.to_thread(train_run, plain, Ranks())
    async with LocalRecognizer(store) as recognizer:
        updates = [update async for update in recognizer.train(request("one", ("validation.split=null",)))]
        assert [job.run_id for job in await recognizer.list_jobs()] == ["one"]
    kinds = [update.event.WhichOneof("event") for update in updates if update.WhichOneof("update") == "event"]
    assert kinds.count("epoch") == 2
    assert kinds[-1] == "done"
    assert updates[-1].job.status == pb.JOB_STATUS_SUCCEEDED
    mine, theirs = ((RunDir(store.runs_dir / name).checkpoint("latest")).read_bytes() for name in ("one", "plain"))
    assert mine == theirs


@pytest.mark.parametrize("moment", ["admission", "training"])
async def test_a_job_ends_with_the_block(store: Store, moment: str) -> None:
    async with LocalRecognizer(store) as recognizer:
        if moment == "training":
            await until_first_step(recognizer, "left")
        else:
            first = asyncio.ensure_future(anext(recognizer.train(request("left", ENDLESS))))
            async with asyncio.timeout(120):
                while not (store.runs_dir / "left").exists():
                    await asyncio.sleep(0)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
    assert status_of(store, "left") is JobStatus.CANCELLED
    if moment == "training":
        assert load_checkpoint(RunDir(store.runs_dir / "left").checkpoint("latest")).progress.epochs_done > 0


async def test_others_leave_a_local_job_alone_and_may_cancel_it(store: Store) -> None:
    others = JobManager(store, LIMITS)
    await others.recover()
    async with LocalRecognizer(store) as recognizer:
        await until_first_step(recognizer, "one")
        assert (await others.get("one")).status is JobStatus.RUNNING
        await others.recover()
        with pytest.raises(ConflictError, match="active already"):
            await others.submit(submission("one", resume=True))
        assert (await others.cancel("one")).status is JobStatus.CANCELLED
    await others.stop()


async def test_a_failure_is_the_jobs_message_and_its_traceback_is_in_the_log(store: Store) -> None:
    async with LocalRecognizer(store) as recognizer:
        rate = "optimizer={kind: sgd, learning_rate: 1000, momentum: 0.99}"
        async for update in recognizer.train(request("one", (rate, "schedule.warmup_epochs=0", "training.epochs=20"))):
            last = update
    assert last.job.status == pb.JOB_STATUS_FAILED
    assert "not finite" in last.job.message
    assert "Traceback" in JobFiles(RunDir(store.runs_dir / "one")).log.read_text()


async def test_scores_are_those_of_the_service(trained: Trained) -> None:
    query = pb.PredictRequest(run_id=TRAINED, dataset="toy", split="test", ground_truth=pb.GroundTruthBoxes())
    found = []
    async with RecognizerClient(trained.service.client) as service, LocalRecognizer(trained.store) as local:
        for recognizer in (service, local):
            head, *items = [item async for item in recognizer.predict(query)]
            found.append((head, [(item.key, item.boxes_N4.tobytes(), item.scores_NC.tobytes()) for item in items]))
    assert found[0] == found[1]
    assert found[0][1]
