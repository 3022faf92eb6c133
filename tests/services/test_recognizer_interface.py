"""The .proto file, the servicer and the client name the same calls; the commands say what to do when a service is not
there."""

import asyncio
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cache.store import Store
from cli.ui.job_display import JobDisplay
from protos.generated import recognizer_pb2 as pb
from protos.generated import recognizer_pb2_grpc as pb_grpc
from recognizer_svc.client import RecognizerClient
from recognizer_svc.runs.events import Event
from recognizer_svc.runs.record import read_record
from recognizer_svc.runs.run_dir import JobFiles, RunDir
from recognizer_svc.service.messages import from_event
from recognizer_svc.service.server import RecognizerConfig, RecognizerService
from recognizer_svc.service.servicer import RecognizerServicer
from svc_common.config import ServerConfig
from svc_common.metrics import Metrics
from svc_common.server import ServiceServer
from tests.recognizer.toy_store import ACAR
from tests.services.conftest import TRAINED, Trained
from tests.services.job_scripts import DONE, Launcher
from tests.services.recognizer_process import ENVIRONMENT, stal_cli, unused_port

METHODS = tuple(pb.DESCRIPTOR.services_by_name["Recognizer"].methods)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_rpc_has_a_servicer_method_and_a_client_wrapper(method: object) -> None:
    name, streams = method.name, method.server_streaming
    handler = vars(RecognizerServicer).get(name)
    assert handler is not None, f"{name} is not implemented"
    assert inspect.isasyncgenfunction(handler) if streams else inspect.iscoroutinefunction(handler)
    wrapper = vars(RecognizerClient).get(re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower())
    assert wrapper is not None, f"{name} has no client wrapper"
    assert inspect.isasyncgenfunction(wrapper) if streams else inspect.iscoroutinefunction(wrapper)


def test_the_servicer_answers_nothing_that_the_proto_does_not_name() -> None:
    public = {name for name in vars(RecognizerServicer) if not name.startswith("_")}
    assert public == {method.name for method in METHODS}
    assert issubclass(RecognizerServicer, pb_grpc.RecognizerServicer)
    assert RecognizerService.full_name == "stal.recognizer.v2.Recognizer"


def test_an_event_of_a_later_version_keeps_its_number() -> None:
    strange = from_event(Event(seq=7, time_s=1.0, type="weather", values={"rain": True}))
    assert (strange.seq, strange.WhichOneof("event")) == (7, None)
    extended = from_event(Event(seq=8, time_s=1.0, type="epoch", values={"epoch": 2, "rain": True}))
    assert extended.epoch.epoch == 2
    bare = from_event(Event(seq=9, time_s=1.0, type="done", values={"best_map": None}))
    assert bare.WhichOneof("event") == "done"
    assert not bare.done.HasField("best_map")


@pytest.mark.parametrize(
    "words",
    [
        ("train", "acar"),
        ("jobs", "list"),
        ("jobs", "cancel", "one"),
        ("predict", "--run", "a", "--dataset", "d", "--split", "s", "--boxes", "ground-truth", "--output", "p.csv"),
    ],
    ids=lambda words: words[0],
)
def test_a_service_that_is_not_running_is_named_with_the_command_that_starts_it(words: tuple[str, ...]) -> None:
    port = unused_port()
    done = stal_cli(*words, "--recognizer", f"127.0.0.1:{port}", "--wait-s", "0")
    assert done.returncode == 1
    assert f"stal-cli serve recognizer --port {port}" in done.stderr


def test_a_port_in_use_is_said_in_one_line(trained: Trained) -> None:
    port = trained.service.address.rpartition(":")[2]
    done = stal_cli("serve", "recognizer", "--store", str(trained.store.root), "--port", port)
    assert done.returncode == 1
    assert f"127.0.0.1:{port} cannot be bound" in done.stderr
    assert "--port" in done.stderr


def test_a_run_id_that_exists_is_refused_with_the_way_out(trained: Trained) -> None:
    words = ("train", "acar", "--set", "data.dataset=toy", "--run-id", TRAINED)
    done = stal_cli(*words, "--recognizer", trained.service.address)
    assert done.returncode == 1
    assert "Choose another --run-id, or continue it with --resume" in done.stderr


async def test_a_scheduler_starts_and_resumes_with_the_same_command(
    store: Store, launcher: Launcher, tmp_path: Path
) -> None:
    launcher(DONE)
    (tmp_path / "recipe.yaml").write_text(ACAR)
    service = RecognizerService(RecognizerConfig(store=store), Metrics())
    server = ServiceServer(ServerConfig(), [service], name="recognizer")
    address = f"127.0.0.1:{await server.start()}"
    words = ("train", str(tmp_path / "recipe.yaml"), "--run-id", "one", "--nproc-per-node", "1", "--backend", "gloo")
    try:
        for attempt in (1, 2):
            done = await asyncio.to_thread(stal_cli, *words, "--resume-or-start", "--recognizer", address)
            assert done.returncode == 0, done.stderr
            record = read_record(JobFiles(RunDir(store.runs_dir / "one")).record)
            assert record is not None
            assert record.attempt == attempt
    finally:
        await server.stop(0)


def test_jobs_watch_replays_a_finished_job(trained: Trained) -> None:
    done = stal_cli("jobs", "watch", TRAINED, "--recognizer", trained.service.address)
    assert (done.returncode, done.stdout) == (0, f"{TRAINED}: succeeded\n")
    assert "epoch 3/3: loss" in done.stderr
    assert "validation mAP" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("train",), 2, "Missing argument 'RECIPE'"),
        (("train", "--resume", "--store", "s"), 2, "--resume needs --run-id"),
        (("train", "--resume", "--run-id", "a", "--set", "head.depth=1"), 2, "--set changes a RECIPE"),
        (("train", "--resume-or-start", "--resume", "--run-id", "a"), 2, "needs RECIPE and --run-id"),
        (("train", "acar", "--resume-or-start"), 2, "needs RECIPE and --run-id"),
        (("train", "acar"), 2, "Give --store STORE"),
        (("train", "acar", "--store", "s", "--nnodes", "2"), 2, "--nnodes needs --recognizer"),
        (("train", "acra", "--store", "s"), 1, "Did you mean 'acar'"),
        (("train", "acar", "--store", "s", "--set", "head.detph=1"), 1, "Did you mean 'depth'"),
        (("jobs", "list"), 2, "Give --store STORE"),
        (
            ("predict", "--run", "a", "--dataset", "d", "--split", "s", "--boxes", "people", "--output", "p"),
            2,
            "must be ground-truth, proposals or proposals:NAME",
        ),
    ],
)
def test_wrong_usage(words: tuple[str, ...], code: int, text: str) -> None:
    done = stal_cli(*words)
    assert (done.returncode, text in done.stderr) == (code, True), done


@pytest.mark.parametrize("words", [("train",), ("predict",), ("jobs",), ("serve", "recognizer")])
def test_help_has_examples(words: tuple[str, ...]) -> None:
    done = stal_cli(*words, "--help")
    assert done.returncode == 0
    assert "stal-cli " in done.stdout


def test_the_live_display_shows_the_figures(
    trained: Trained, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    with JobDisplay() as display:
        for update in trained.updates:
            display.show(update)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert "epoch 3/3 step 5/5" in shown
    assert re.search(r"loss 0\.\d{4} lr \d\.\d\de-\d\d \d+ actors/s val mAP 0\.\d{4}", shown)


def test_the_client_needs_no_torch() -> None:
    modules = "recognizer_svc.client, recognizer_svc.training.recipe, recognizer_svc.scoring.predictions_csv"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT).returncode == 0
