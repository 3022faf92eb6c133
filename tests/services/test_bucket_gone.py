"""What a service on a store in a bucket does while the bucket does not answer: it goes on, and nothing waits long."""

import asyncio
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.store import Store
from recognizer_svc.runs.record import JobStatus, Launch
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.runs.store import RunStore
from recognizer_svc.runs.time_limited_bucket import TimeLimitedBucket
from recognizer_svc.scoring import engine as engine_module
from recognizer_svc.scoring import open_features
from recognizer_svc.scoring.engine import Engine
from recognizer_svc.scoring.models import load_run
from recognizer_svc.scoring.queries import PredictQuery, RecognizeQuery
from recognizer_svc.scoring.served_models import ServedModels
from recognizer_svc.service.jobs import JobManager
from recognizer_svc.service.limits import loopback_interface
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.recipe import parse_recipe
from recognizer_svc.training.run import train_run
from stal_data.errors import StalError
from stal_data.keyframes import KeyFrame
from tests.cache.object_store.conftest import OpenStore, fill, machine, proxy  # noqa: F401 - fixtures
from tests.cache.object_store.s3_server import FaultProxy
from tests.recognizer.toy_store import ACAR
from tests.services.job_scripts import LIMITS, SLEEP, Launcher, started, submission

STAGE_BYTES = 10**8
BOX = np.array([[0.1, 0.1, 0.5, 0.9]], dtype=np.float32)
QUERY = RecognizeQuery(
    run_id="first",
    checkpoint="",
    dataset="toy",
    split="test",
    key=KeyFrame("video0", 0),
    boxes_N4=BOX,
    feature_set="",
)


@pytest.fixture
def bucket(fill: Callable[[Path], None], toy: Store, machine: OpenStore) -> OpenStore:  # noqa: F811
    """Features, splits and a trained run in a bucket; returns what opens it as another machine."""
    fill(toy.root)
    trainer = machine("trainer")
    run = RunDir(trainer.runs_dir / "first")
    run.root.mkdir(parents=True)
    run.recipe.write_text(parse_recipe(ACAR, ("training.epochs=1",)).to_yaml())
    train_run(run, Ranks())
    return machine


def engine_on(store: Store, served: ServedModels | None = None) -> Engine:
    return Engine(store, device="cpu", served=served or ServedModels())


def test_a_head_is_not_looked_for_at_each_call(bucket: OpenStore, proxy: FaultProxy) -> None:  # noqa: F811
    engine = engine_on(bucket("scorer", STAGE_BYTES))
    engine.recognize([QUERY])
    proxy.log.clear()
    engine.recognize([QUERY])
    assert proxy.log == []


@pytest.mark.parametrize("pinned", [False, True])
def test_calls_are_answered_from_what_is_here_while_the_bucket_is_gone(
    bucket: OpenStore,
    proxy: FaultProxy,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    pinned: bool,
) -> None:
    store, served = bucket("scorer", STAGE_BYTES), ServedModels()
    if pinned:
        served.load("first", "", lambda: load_run(store, "first", "", device="cpu"))
    engine = engine_on(store, served)
    ((info, before),) = answers(engine, QUERY)
    monkeypatch.setattr(engine_module, "RUN_EVERY_S", 0.0)
    monkeypatch.setattr(open_features, "KEPT_S", 0.0)
    monkeypatch.setattr("recognizer_svc.runs.time_limited_bucket._KNOWN_S", 0.0)
    proxy.rule = lambda request: "reset"
    proxy.log.clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            ((again, scores),) = answers(engine, QUERY)
            assert again.digest == info.digest
            np.testing.assert_array_equal(scores, before)
    assert "is not known, and not asked for 30 s" in caplog.text
    assert len(proxy.log) == 2  # one request, made once more


def test_calls_that_need_the_bucket_fail_soon_and_once(bucket: OpenStore, proxy: FaultProxy) -> None:  # noqa: F811
    engine = engine_on(bucket("scorer"))  # nothing is kept here: each row is read in the bucket
    answers(engine, QUERY)
    other = replace(QUERY, key=KeyFrame("video1", 0))
    proxy.rule = lambda request: "reset"
    proxy.log.clear()
    engine._bucket.ask("the bucket", lambda store: store.mirror and store.mirror.exists())
    made = len(proxy.log)
    with pytest.raises(StalError, match="failed"):
        engine.recognize([QUERY, other])
    with pytest.raises(StalError, match="failed"):
        engine.prepare(predict_query())
    with pytest.raises(StalError, match="failed"):  # not: there is no such run
        engine.recognize([replace(QUERY, run_id="second")])
    assert len(proxy.log) == made


def test_a_bucket_that_is_back_is_asked_again(machine: OpenStore, proxy: FaultProxy) -> None:  # noqa: F811
    bucket = TimeLimitedBucket(machine("one"), gone_s=0)
    proxy.rule = lambda request: "500"
    assert "failed 2 times" in str(bucket.silence())
    proxy.rule = lambda request: None
    assert bucket.silence() is None


def test_a_fault_of_the_mirrors_disk_is_not_one_of_the_bucket(
    machine: OpenStore,  # noqa: F811
    fill: Callable[[Path], None],  # noqa: F811
    tmp_path: Path,
) -> None:
    for name in ("weights/a", "runs/b"):
        (tmp_path / "local" / name).parent.mkdir(parents=True)
        (tmp_path / "local" / name).write_bytes(b"content")
    fill(tmp_path / "local")
    store = machine("one")
    (store.root / "weights").write_bytes(b"a file where the folder is to be")
    bucket = TimeLimitedBucket(store)
    assert "weights" in str(bucket.ask("a", lambda store: store.backend.fetch(store.root / "weights/a")))
    assert bucket.ask("b", lambda store: store.backend.fetch(store.root / "runs/b")) is None
    assert (store.root / "runs/b").read_bytes() == b"content"


def test_a_run_that_does_not_fit_the_mirrors_disk_leaves_the_others_alone(
    bucket: OpenStore, monkeypatch: pytest.MonkeyPatch, limited_files: Callable[[int], None]
) -> None:
    trainer = bucket("trainer")
    other = RunDir(shutil.copytree(trainer.runs_dir / "first", trainer.runs_dir / "second"))
    RunStore.of(trainer).publish(other)
    engine = engine_on(bucket("scorer", STAGE_BYTES))
    answers(engine, QUERY)
    monkeypatch.setattr(engine_module, "RUN_EVERY_S", 0.0)
    limited_files(other.checkpoint("latest").stat().st_size // 2)
    for _ in range(2):
        with pytest.raises(StalError, match=r"runs/second/.*could not be written: File too large"):
            engine.recognize([replace(QUERY, run_id="second")])
        answers(engine, QUERY)
        engine.prepare(predict_query())
    limited_files(-1)
    answers(engine, replace(QUERY, run_id="second"))


async def test_a_job_is_cancelled_while_the_bucket_is_gone(
    bucket: OpenStore,
    proxy: FaultProxy,  # noqa: F811
    launcher: Launcher,
    caplog: pytest.LogCaptureFixture,
) -> None:
    launcher(SLEEP)
    store = bucket("worker")
    jobs = JobManager(store, replace(LIMITS, interface=loopback_interface()))
    two = Launch(nproc_per_node=1, backend="gloo", nnodes=2, rdzv_endpoint="127.0.0.1:29400")
    await jobs.submit(submission("one", launch=two))
    await started(jobs, store)
    proxy.rule = lambda request: "reset"
    async with asyncio.timeout(120):
        assert (await jobs.cancel("one")).status is JobStatus.CANCELLED
    assert "other machines may not learn that it is cancelled" in caplog.text
    await jobs.stop()


def predict_query() -> PredictQuery:
    return PredictQuery(run_id="first", checkpoint="", dataset="toy", split="test", proposals=None, feature_set="")


def answers(engine: Engine, *queries: RecognizeQuery) -> list[tuple[object, np.ndarray]]:
    found = engine.recognize(queries)
    assert not any(isinstance(item, StalError) for item in found), found
    return found
