"""`train` and `sweep` with --tracker: what a tracker is told, and that it never ends a training."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cache.store import Store
from cli.main import root
from cli.ui.tracking import TRACKERS, Tracking
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.training.recipe import Recipe, load_recipe
from stal_data.errors import InputError
from tests.recognizer.run_results import values
from tests.recognizer.toy_store import ACAR, make_store

pytestmark = pytest.mark.filterwarnings("ignore")  # the trackers' libraries warn of themselves

Told = tuple[object, ...]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("toy") / "store")


@pytest.fixture
def store(made: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("acar.yaml").write_text(ACAR)
    return Path(shutil.copytree(made.root, tmp_path / "store"))


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Told]:
    """What a tracker in place of MLflow is told."""
    found: list[Told] = []

    class Run:
        def __init__(self, run_id: str, recipe: Recipe | None) -> None:
            found.append(("open", run_id, recipe))
            self.run_id = run_id

        def log(self, epoch: int, figures: Mapping[str, float]) -> None:
            found.append(("log", self.run_id, epoch, dict(figures)))

        def end(self, status: str) -> None:
            found.append(("end", self.run_id, status))

    (tmp_path / "packages" / "mlflow").mkdir(parents=True)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setitem(TRACKERS, "mlflow", Run)
    return found


def call(*words: object) -> Result:
    return CliRunner().invoke(root, [str(word) for word in words], catch_exceptions=True)


def train(store: Path, *words: object, epochs: int = 2, tracker: str = "mlflow") -> Result:
    chosen = ("--tracker", tracker, "--run-id", "first", "--set", f"training.epochs={epochs}")
    return call("train", "acar.yaml", "--store", store, *chosen, *words)


def test_a_tracker_is_told_the_recipe_each_epoch_and_the_end(store: Path, told: list[Told]) -> None:
    assert train(store).exit_code == 0
    assert told[0] == ("open", "first", load_recipe("acar.yaml", ["training.epochs=2"]))
    assert told[-1] == ("end", "first", "succeeded")
    run = RunDir(store / "runs" / "first")
    figures: dict[str, list[float]] = {}
    for word, run_id, epoch, some in told[1:-1]:
        assert (word, run_id) == ("log", "first")
        for name, value in some.items():
            figures.setdefault(name, []).append(value)
            assert len(figures[name]) == epoch or name.startswith("final/")
    assert figures["train/loss"] == values(run, "epoch", "loss")
    rates = dict(zip(values(run, "step", "epoch"), values(run, "step", "learning_rate"), strict=True))
    assert figures["train/learning_rate"] == list(rates.values())  # of each epoch's last step
    assert figures["validation/mAP"] == values(run, "validation", "map")
    assert figures["final/best_mAP"] == values(run, "done", "best_map")


def test_a_resumed_run_goes_on_at_the_tracker(store: Path, told: list[Told]) -> None:
    assert train(store, epochs=1).exit_code == 0
    told.clear()
    assert train(store, "--resume", epochs=2).exit_code == 0
    assert [item[0] for item in told] == ["open", "log", "log", "log", "end"]
    assert {item[2] for item in told if item[0] == "log"} == {2}


@pytest.mark.parametrize("broken", ["__init__", "log", "end"])
def test_a_tracker_that_fails_ends_no_training(
    store: Path, told: list[Told], broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no route to the tracker")

    monkeypatch.setattr(TRACKERS["mlflow"], broken, fail)
    result = train(store)
    assert result.exit_code == 0
    assert result.output.count("the training goes on: no route to the tracker") == 1
    assert values(RunDir(store / "runs" / "first"), "done", "epochs") == [2]


def test_what_an_interrupted_command_leaves_is_cancelled_at_the_tracker(told: list[Told]) -> None:
    with Tracking("mlflow") as tracking:
        tracking.show("first", None, pb.JobUpdate(event=pb.JobEvent(step=pb.StepEvent(learning_rate=0.1))))
    assert told == [("open", "first", None), ("end", "first", "cancelled")]


def test_the_runs_of_a_sweep_are_tracked_each_for_itself(store: Path, told: list[Told]) -> None:
    words = ("--seeds", 2, "--jobs", 1, "--set", "training.epochs=1", "--tracker", "mlflow")
    result = call("sweep", "acar.yaml", "--store", store, *words)
    assert result.exit_code == 0, result.output
    opened = [item for item in told if item[0] == "open"]
    assert [item[2].training.seed for item in opened if isinstance(item[2], Recipe)] == [0, 1]
    assert [item[1] for item in told if item[0] == "end"] == [item[1] for item in opened]
    assert len({item[1] for item in opened}) == 2


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_missing_package_is_said_before_anything_is_trained(
    store: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.ui.tracking.find_spec", lambda _: None)
    result = call(command, "acar.yaml", "--store", store, "--tracker", "wandb")
    assert isinstance(result.exception, InputError)
    assert "--tracker wandb needs the package 'wandb'; in the checkout: pip install" in str(result.exception)
    assert "'.[wandb]'" in str(result.exception)
    assert not (store / "runs").exists() or not any((store / "runs").iterdir())


def test_mlflow_has_one_run_over_all_attempts(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for attempt, epochs in enumerate((1, 2)):
        result = train(store, *["--resume"] * attempt, epochs=epochs)
        assert result.exit_code == 0
        assert "Warning" not in result.output
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("stal").experiment_id])
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert run.data.params["head.kind"] == '"acar"'
    assert "epochs: 2" in Path(client.download_artifacts(run.info.run_id, "recipe.yaml")).read_text()
    here = RunDir(store / "runs" / "first")
    for name, expected in {
        "train/loss": values(here, "epoch", "loss"),
        "validation/mAP": values(here, "validation", "map"),
    }.items():
        history = client.get_metric_history(run.info.run_id, name)
        assert [(item.step, item.value) for item in history] == list(enumerate(expected, start=1))


def test_wandb_writes_a_run_without_network(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    result = train(store, tracker="wandb")
    assert result.exit_code == 0
    assert "Warning" not in result.output
    (written,) = (tmp_path / "wandb").glob("offline-run-*-first/run-first.wandb")
    content = written.read_bytes()
    assert all(name in content for name in (b"train/loss", b"validation/mAP", b"learning_rate", b"reduce_channels"))
