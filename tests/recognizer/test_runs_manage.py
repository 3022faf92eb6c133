"""Tagging and deleting runs, as commands."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from cache.store import Store
from cli.main import root
from recognizer_svc.runs.record import JobRecord, JobStatus, Launch, write_record
from recognizer_svc.runs.run_dir import JobFiles, RunDir
from recognizer_svc.runs.store import RunStore
from recognizer_svc.runs.verify import verify_run
from recognizer_svc.scoring.models import load_run
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.run import train_run
from stal_data.errors import ConflictError, InputError, NotFoundError, StalError
from stal_data.file_lock import FileLock
from tests.recognizer.conftest import make_run


@pytest.fixture(scope="module")
def trained(toy_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the run `first`; read only."""
    root = shutil.copytree(toy_store.root, tmp_path_factory.mktemp("manage") / "store")
    assert train_run(make_run(root, "first"), Ranks())
    return root


@pytest.fixture
def store(trained: Path, tmp_path: Path) -> Store:
    return Store.open(shutil.copytree(trained, tmp_path / "store"))


def call(*words: object, answer: str | None = None) -> str:
    result = CliRunner().invoke(root, ["runs", *map(str, words)], input=answer)
    if isinstance(result.exception, StalError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def tags(store: Store, run_id: str = "first") -> list[str]:
    (run,) = (run for run in json.loads(call("list", "--store", store.root, "--json")) if run["run_id"] == run_id)
    return run["tags"]


def test_tags_come_and_go_and_are_shown(store: Store) -> None:
    shutil.copytree(store.runs_dir / "first", store.runs_dir / "second")
    assert tags(store) == []
    assert "first: baseline, paper" in call("tag", "first", "paper", "baseline", "--store", store.root)
    call("tag", "first", "paper", "--store", store.root)
    assert (tags(store), tags(store, "second")) == (["baseline", "paper"], [])
    assert "baseline paper" in call("list", "--store", store.root)
    assert "baseline paper" in call("compare", "first", "second", "--store", store.root)
    only = json.loads(call("list", "--store", store.root, "--tag", "paper", "--json"))
    assert [run["run_id"] for run in only] == ["first"]
    assert "no runs with the tag 'papers'; 'stal-cli runs tag" in call("list", "--store", store.root, "--tag", "papers")
    call("tag", "first", "paper", "--remove", "--store", store.root)
    assert tags(store) == ["baseline"]
    assert verify_run(RunDir(store.runs_dir / "first")).problems == ()


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["first", "paper", "--remove"], NotFoundError, "Run 'first' has no tag 'paper'. Did you mean 'papers'"),
        (["first", "../x"], InputError, "tag is '../x'"),
        (["first", *(f"t{number}" for number in range(50))], InputError, "would have 51 tags, but may have 50"),
        (["frist", "x"], NotFoundError, "There is no run 'frist'.* Did you mean 'first'"),
    ],
)
def test_wrong_tags_are_refused(store: Store, words: list[str], error: type[StalError], message: str) -> None:
    call("tag", "first", "papers", "--store", store.root)
    with pytest.raises(error, match=message):
        call("tag", *words, "--store", store.root)
    assert tags(store) == ["papers"]


def test_a_damaged_tags_file_makes_a_broken_run_and_is_found(store: Store) -> None:
    call("tag", "first", "paper", "--store", store.root)
    run = RunDir(store.runs_dir / "first")
    run.tags.write_bytes(run.tags.read_bytes().replace(b"paper", b"pager"))
    (summary,) = RunStore.of(store).summaries()
    assert summary.status == "broken"
    assert any("tags.json' is damaged" in problem for problem in verify_run(run).problems)


def test_runs_are_deleted_after_asking(store: Store) -> None:
    shutil.copytree(store.runs_dir / "first", store.runs_dir / "second")
    with pytest.raises(NotFoundError, match="no run 'thrid'"):
        call("rm", "first", "thrid", "--store", store.root, "--yes")
    result = CliRunner().invoke(root, ["runs", "rm", "first", "--store", str(store.root)], input="n\n")
    assert result.exit_code == 1
    assert (store.runs_dir / "first").is_dir()
    assert "deleted first" in call("rm", "first", "--store", store.root, answer="y\n")
    assert "deleted second" in call("rm", "second", "--store", store.root, "--yes")
    assert list(store.runs_dir.glob("[!.]*")) == []
    assert [path.name for path in store.runs_dir.glob(".*")] == [".locks"]


def test_a_run_in_training_stays(store: Store) -> None:
    run = RunDir(store.runs_dir / "first")
    files = JobFiles(run, 1)
    record = JobRecord(
        run_id="first",
        attempt=1,
        status=JobStatus.RUNNING,
        launch=Launch(nproc_per_node=1, backend="gloo", nnodes=2, node_rank=1, rdzv_endpoint="127.0.0.1:1"),
        host="elsewhere",
        created_s=1.0,
        events_offset=0,
    )
    lock = FileLock.take(JobFiles(run).lock)
    assert lock is not None
    with lock, pytest.raises(ConflictError, match="Run 'first' is in training here"):
        call("rm", "first", "--store", store.root, "--yes")
    write_record(files, record)
    with pytest.raises(ConflictError, match="Run 'first' was in training on elsewhere"):
        call("rm", "first", "--store", store.root, "--yes")
    assert run.checkpoint("latest").exists()
    files.record.unlink()
    call("rm", "first", "--store", store.root, "--yes")
    assert not run.root.exists()


def test_a_run_whose_head_is_loaded_stays(store: Store) -> None:
    model = load_run(store, "first", "", device="cpu")
    with pytest.raises(ConflictError, match="first' is in use by a running job, service"):
        call("rm", "first", "--store", store.root, "--yes")
    assert model.info.run_id == "first"
    del model
    call("rm", "first", "--store", store.root, "--yes")
