"""Training and prediction on a store in a bucket, by machines that share nothing else."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.backbones.weights import write_tensors
from cache.feature_store import list_feature_sets
from cache.feature_store.manage.copy import copy_feature_set, copy_split
from cache.split_store import load_split, split_file
from cache.store import Store
from cli.commands.cache_commands.verify_files import verify_runs, verify_tables, verify_weights
from recognizer_svc.runs.events import EventWriter, read_events
from recognizer_svc.runs.record import Launch, cancel_requested, request_cancel, write_record
from recognizer_svc.runs.removing import remove_run
from recognizer_svc.runs.run_dir import METADATA_KEY, JobFiles, RunDir
from recognizer_svc.runs.store import RunStore
from recognizer_svc.runs.tags import change_tags
from recognizer_svc.scoring.predict import BoxesOfKeyFrame, Predictor
from recognizer_svc.service.admission import Submission, check_submission, queue_job
from recognizer_svc.service.job_sync import Exchange
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.recipe import parse_recipe
from recognizer_svc.training.run import train_run
from stal_data.errors import ConflictError, NotFoundError, StalError
from tests.cache.object_store.conftest import OpenStore, fill, machine, proxy  # noqa: F401 - fixtures
from tests.cache.object_store.s3_server import FaultProxy, Request
from tests.recognizer.toy_store import ACAR


def new_run(store: Store, run_id: str, *overrides: str) -> RunDir:
    run_dir = RunDir(store.runs_dir / run_id)
    run_dir.root.mkdir(parents=True)
    run_dir.recipe.write_text(parse_recipe(ACAR, overrides).to_yaml())
    return run_dir


def scores(store: Store, run: Path) -> np.ndarray:
    predictor = Predictor.load(run, device="cpu")
    people = [BoxesOfKeyFrame(key=k.key, boxes_N4=k.boxes_N4) for k in load_split(store, "toy", "test").key_frames]
    found = predictor.predict(predictor.open_features(store, "toy", "test"), people)
    return np.concatenate([item.scores_NC for item in found])


@pytest.mark.parametrize("stage_bytes", [10**8, pytest.param(None, marks=pytest.mark.slow)])
def test_a_run_from_a_bucket_is_that_from_a_folder(
    toy_store: Store,
    machine: OpenStore,  # noqa: F811
    tmp_path: Path,
    stage_bytes: int | None,
) -> None:
    upload = machine("upload")
    for info in list_feature_sets(toy_store):
        copy_split(toy_store, upload, info.dataset, info.split)
        copy_feature_set(info.path, upload)

    trainer = machine("trainer", stage_bytes)
    run = new_run(trainer, "first")
    train_run(run, Ranks())  # opens the store by the run's folder, as a worker does
    local = Store.open(shutil.copytree(toy_store.root, tmp_path / "folder"))
    reference = new_run(local, "first")
    train_run(reference, Ranks())

    scorer = machine("scorer", stage_bytes)
    (summary,) = RunStore.of(scorer).summaries()
    assert (summary.run_id, summary.status, summary.epochs_done) == ("first", "succeeded", 2)
    RunStore.of(scorer).fetch("first")
    assert scores(scorer, RunStore.of(scorer).find("first").root).tobytes() == scores(local, reference.root).tobytes()


@pytest.fixture
def run(machine: OpenStore) -> RunDir:  # noqa: F811
    """A run of one machine that was published."""
    store = machine("one")
    run = new_run(store, "first")
    run.checkpoint("latest").parent.mkdir()
    run.checkpoint("latest").write_bytes(b"weights")
    run.events.write_text('{"seq": 1, "time": 1.0, "type": "log", "message": ""}\n')
    RunStore.of(store).publish(run)
    return run


def test_the_newer_copy_of_a_run_counts(machine: OpenStore, run: RunDir) -> None:  # noqa: F811
    other = machine("other")
    RunStore.of(other).fetch("first")
    there = RunStore.of(other).find("first")
    assert there.checkpoint("latest").read_bytes() == b"weights"
    there.checkpoint("latest").write_bytes(b"better weights")
    RunStore.of(other).fetch("first")  # as many events: it may be training here
    assert there.checkpoint("latest").read_bytes() == b"better weights"
    with there.events.open("a") as file:
        file.write('{"seq": 2, "time": 2.0, "type": "log", "message": ""}\n')
    RunStore.of(other).fetch("first")
    assert there.checkpoint("latest").read_bytes() == b"better weights"
    RunStore.of(other).publish(there)
    RunStore.of(machine("one")).find("first")  # wants the small files, and finds that the large ones are old
    assert not run.checkpoint("latest").exists()
    RunStore.of(machine("one")).fetch("first")
    assert run.checkpoint("latest").read_bytes() == b"better weights"


def test_what_a_bucket_holds_is_verified(machine: OpenStore, run: RunDir, toy_store: Store) -> None:  # noqa: F811
    upload, other = machine("upload"), machine("other")
    copy_split(toy_store, upload, "toy", "test")
    split, weights = split_file(upload, "toy", "test"), upload.weights_dir / "w.safetensors"
    split.write_bytes(split.read_bytes()[512:])  # as earlier versions wrote it
    write_tensors(weights, {"a": torch.ones(99)}, key="stal_backbone", metadata={"b": 1})
    weights.write_bytes(weights.read_bytes()[:-1])
    for path in (split, weights):
        upload.backend.publish(path)
    (problem,) = verify_tables(other, None, None, print, repair=False)
    assert "carries no checksum" in problem
    assert verify_tables(other, None, None, print, repair=True) == []
    assert verify_tables(machine("third"), None, None, print, repair=False) == []
    (problem,) = verify_weights(other, print)
    assert "w.safetensors' is damaged" in problem
    (problem,) = verify_runs(other, print)
    assert problem.startswith("runs/first: ")


def train_on(run: RunDir) -> None:
    """Leave what an epoch of training does."""
    with EventWriter(run.events) as log:
        log.write("log", message="")
        for name in ("best", "latest"):
            weights = {"a": torch.full((9,), float(log.seq))}
            write_tensors(run.checkpoint(name), weights, key=METADATA_KEY, metadata={"events": log.seq})
            log.write("checkpoint", epoch=1, step=0, name=name)


@pytest.fixture
def trained(machine: OpenStore) -> RunDir:  # noqa: F811
    """A run that was published after one epoch, and trained for another."""
    run = new_run(machine("one"), "trained")
    run.checkpoint("latest").parent.mkdir()
    train_on(run)
    RunStore.of(machine("one")).publish(run)
    train_on(run)
    return run


@pytest.mark.parametrize("last", ["best.safetensors", "latest.safetensors"])
def test_a_run_that_was_sent_in_part_is_sound(
    machine: OpenStore,  # noqa: F811
    trained: RunDir,
    proxy: FaultProxy,  # noqa: F811
    last: str,
) -> None:
    sent: list[Request] = []

    def rule(request: Request) -> str | None:
        if sent:
            return "500"
        if request.method == "PUT" and request.path.endswith(last):
            sent.append(request)
        return None

    proxy.rule = rule
    with pytest.raises(StalError):
        RunStore.of(machine("one")).publish(trained)
    proxy.rule = lambda request: None
    assert verify_runs(machine("other"), print) == []
    RunStore.of(machine("one")).publish(trained)
    assert verify_runs(machine("other"), print) == []
    assert_same_files(trained, machine("other"))


def test_a_run_that_is_sent_while_it_is_fetched_is_fetched_again(
    machine: OpenStore,  # noqa: F811
    trained: RunDir,
    proxy: FaultProxy,  # noqa: F811
) -> None:
    def rule(request: Request) -> None:
        if request.method == "GET" and request.path.endswith("latest.safetensors"):
            proxy.rule = lambda request: None
            RunStore.of(machine("one")).publish(trained)

    proxy.rule = rule
    RunStore.of(machine("other")).fetch("trained")
    assert_same_files(trained, machine("other"))


def assert_same_files(run: RunDir, store: Store) -> None:
    there = RunDir(store.runs_dir / run.run_id)
    for path in (run.events, run.checkpoint("best"), run.checkpoint("latest")):
        assert (there.root / path.relative_to(run.root)).read_bytes() == path.read_bytes()


def test_only_what_is_new_is_sent(machine: OpenStore, run: RunDir, proxy: FaultProxy) -> None:  # noqa: F811
    proxy.log.clear()
    run.label_map.write_text("new")
    RunStore.of(machine("one")).publish(run)
    assert [request.path.rpartition("/")[2] for request in proxy.log if request.method == "PUT"] == ["label_map.pbtxt"]


def test_two_machines_do_not_train_one_run(machine: OpenStore, run: RunDir) -> None:  # noqa: F811
    other = machine("other")
    with (
        RunStore.of(machine("one")).sole_training(run),
        pytest.raises(ConflictError, match=r"'first' is being trained by process \d+ on host"),
        RunStore.of(other).sole_training(RunDir(other.runs_dir / "first")),
    ):
        pass
    with RunStore.of(other).sole_training(RunDir(other.runs_dir / "first")):
        pass


TWO = [Launch(nnodes=2, node_rank=rank, nproc_per_node=1, backend="gloo", rdzv_endpoint="one:29500") for rank in (0, 1)]


def test_machines_of_one_job_see_its_events_and_that_it_is_cancelled(
    machine: OpenStore,  # noqa: F811
    run: RunDir,
    proxy: FaultProxy,  # noqa: F811
) -> None:
    other = machine("other")
    here, there = JobFiles(run, 0), JobFiles(RunDir(other.runs_dir / "first"), 1)
    submission = Submission(run_id="first", recipe="", resume=True, launch=TWO[1])
    runs = RunStore.of(other)
    files, record, owned = queue_job(runs, submission, check_submission(runs, submission))
    assert files.run.checkpoint("latest").read_bytes() == b"weights"
    with run.events.open("a") as file:
        file.write('{"seq": 2, "time": 2.0, "type": "done"}\n')
    RunStore.of(machine("one")).publish(run)
    write_record(here, replace(record, launch=TWO[0]))
    request_cancel(here)
    Exchange(machine("one"), here, TWO[0]).publish_cancel()

    exchange = Exchange(other, there, TWO[1])
    assert not cancel_requested(there, record)
    exchange.fetch_cancel()
    asked = len(proxy.log)
    exchange.fetch_cancel(every_s=3600)
    assert len(proxy.log) == asked
    exchange.fetch_events()
    assert cancel_requested(there, record)
    assert [event.type for event in read_events(there.run.events)] == ["log", "done"]
    proxy.rule = lambda request: "500"
    exchange.fetch_events()  # a bucket that does not answer is no reason to end a job
    proxy.rule = lambda request: None
    owned.release()


def test_a_run_that_the_bucket_has_is_not_begun_again_on_another_machine(
    machine: OpenStore,  # noqa: F811
    run: RunDir,
    fill: Callable[[Path], None],  # noqa: F811
    toy_store: Store,
) -> None:
    fill(toy_store.root)
    runs = RunStore.of(machine("other"))
    submission = Submission(run_id="first", recipe=ACAR, resume=False, launch=TWO[1])
    recipe = check_submission(runs, submission)
    with pytest.raises(ConflictError, match="Run 'first' exists in the store"):
        queue_job(runs, submission, recipe)


def test_a_run_that_nobody_has_is_named(machine: OpenStore) -> None:  # noqa: F811
    with pytest.raises(NotFoundError, match="There is no run 'x' in 's3://cache/some/store'"):
        RunStore.of(machine("one")).find("x")


def test_tags_are_those_of_the_bucket(machine: OpenStore, trained: RunDir) -> None:  # noqa: F811
    one, other = RunStore.of(machine("one")), RunStore.of(machine("other"))
    change_tags(one, "trained", add=["paper"])
    (summary,) = other.summaries()
    assert summary.tags == ("paper",)
    assert change_tags(other, "trained", add=["baseline"], remove=["paper"]) == ("baseline",)
    assert [found.tags for found in one.summaries()] == [("baseline",)]
    assert trained.checkpoint("latest").exists()


def test_a_run_is_deleted_in_the_bucket_too(machine: OpenStore, run: RunDir, proxy: FaultProxy) -> None:  # noqa: F811
    one, other = RunStore.of(machine("one")), RunStore.of(machine("other"))
    other.find("first")
    with other.sole_training(other.run("first")), pytest.raises(ConflictError, match="is being trained by process"):
        remove_run(one, "first")
    proxy.rule = lambda request: "500" if request.method == "DELETE" and "latest" in request.path else None
    with pytest.raises(StalError):
        remove_run(one, "first")
    proxy.rule = lambda request: None
    assert run.checkpoint("latest").exists()  # so that the same words go on
    remove_run(one, "first")
    assert not run.root.exists()
    assert one.store.mirror is not None
    assert one.store.mirror.bucket.objects("runs/") == []
    assert RunStore.of(machine("third")).summaries() == []
    remove_run(other, "first")  # its copy
    assert other.summaries() == []
