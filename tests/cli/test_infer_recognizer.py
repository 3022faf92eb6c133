"""`stal-cli infer --recognizer`: the results of `infer`, from services alone; what they have answered is kept."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cache.backbones.load import load_backbone
from cache.store import Store
from cli.main import root
from cli.workflow.streaming.kept_key_frames import KeptKeyFrames
from detector_svc.detections import FrameDetections
from protos.generated import detector_pb2 as pb
from recognizer_svc.service.server import RecognizerConfig, RecognizerService
from stal_data.errors import StalError
from stal_data.keyframes import KeyFrame, ScoredKeyFrame
from svc_common.client import RetryPolicy
from svc_common.errors import ServiceUnavailableError
from svc_common.metrics import Metrics
from tests.cli.inference_store import BACKBONES, Inference, in_this_process, make_store, stal_cli, train
from tests.data.videos import constant, write_video
from tests.detector.replica import ReplicaService
from tests.services.echo import in_a_thread
from tests.services.recognizer_process import ENVIRONMENT

EXACT = 1e-6
SECONDS = 7
NO_TORCH = 'import sys\nsys.modules["torch"] = None  # an import of it is an error\n'
KILLED = """
import os, signal
from cli.main import main
from cli.workflow.streaming.kept_key_frames import KeptKeyFrames
add = KeptKeyFrames.add_scores
def add_scores(kept, item):
    add(kept, item)
    if item.key.time_ms == 2000:
        os.kill(os.getpid(), signal.SIGKILL)
KeptKeyFrames.add_scores = add_scores
main()
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """So that sums are added in the same order by both."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_store(tmp_path_factory.mktemp("made"))
    train(made, "seeing", "head={kind: relation, channels: 8}", "data.neighbours=1", seed=0)
    return made


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "street.mp4", constant(25, 25 * SECONDS))


@pytest.fixture(scope="module")
def local(store: Path, street: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of both runs, made on this machine."""
    folder = tmp_path_factory.mktemp("local")
    with (
        pytest.MonkeyPatch.context() as patch,
        in_this_process(store, patch) as inference,
        in_a_thread(ReplicaService()) as port,
    ):
        for run in ("first", "seeing"):
            inference(street, folder / run, "--detector", f"127.0.0.1:{port}", run=run)
    return folder


@contextmanager
def recognizer(store: Path, **settings: object) -> Iterator[str]:
    loaders = [
        partial(load_backbone, kind, weights=str(store.parent / f"{kind}.safetensors"), preset=None)
        for kind in BACKBONES
    ]
    config = RecognizerConfig(store=Store.open(str(store)), device="cpu", backbones=tuple(loaders), **settings)
    with in_a_thread(RecognizerService(config, Metrics())) as port:
        yield f"127.0.0.1:{port}"


@contextmanager
def services(store: Path, **settings: object) -> Iterator[tuple[ReplicaService, list[str]]]:
    """A detector, and the options that name it and a recognizer."""
    detector = ReplicaService()
    with in_a_thread(detector) as port, recognizer(store, **settings) as address:
        yield detector, ["--detector", f"127.0.0.1:{port}", "--recognizer", address]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Inference]:
    with in_this_process(tmp_path / "unused", monkeypatch) as inference:
        yield inference


def assert_same(found: Path, wanted: Path) -> None:
    """The same rows, with scores that differ by rounding at most."""
    rows, expected = (np.loadtxt(path / "predictions.csv", delimiter=",", dtype=str) for path in (found, wanted))
    for columns in (slice(7), slice(8, None)):
        assert rows[:, columns].tolist() == expected[:, columns].tolist()
    np.testing.assert_allclose(rows[:, 7].astype(float), expected[:, 7].astype(float), rtol=0, atol=EXACT)


def scores(folder: Path) -> NDArray[np.float64]:
    return np.loadtxt(folder / "predictions.csv", delimiter=",", usecols=7)


def refusal(*words: object) -> str:
    result = CliRunner().invoke(root, [str(word) for word in words])
    assert result.exit_code != 0
    return result.output if isinstance(result.exception, SystemExit) else str(result.exception)


def test_the_results_are_those_of_this_machine(
    store: Path, street: Path, local: Path, in_process: Inference, tmp_path: Path
) -> None:
    with services(store) as (detector, names):
        out = tmp_path / "out"
        stal_cli("infer", street, *names, "--run", "first", "--output", out)
        assert_same(out, local / "first")
        assert (out / "videos/street/street.vtt").read_text() == (local / "first/videos/street/street.vtt").read_text()
        assert {path.name for path in out.iterdir()} == {path.name for path in (local / "first").iterdir()}
        assert in_process.ran == ["dataset"]
        assert len(detector.answered) == SECONDS
        stal_cli("infer", street, *names, "--run", "first", "--output", out)
        assert len(detector.answered) == SECONDS
        plain = scores(out)
        stal_cli("infer", street, *names, "--run", "first", "--fuse-confidence", "--output", out, "--no-video")
        np.testing.assert_allclose(scores(out), plain * 0.5, rtol=1e-6)


def test_features_that_are_kept_give_other_runs_their_scores(
    store: Path, street: Path, local: Path, tmp_path: Path
) -> None:
    """With a recognizer whose store knows nothing of the video."""
    fresh = store.parent / "fresh"
    shutil.copytree(store, fresh, ignore=shutil.ignore_patterns("features", "proposals", "annotations"))
    out = tmp_path / "out"
    words = ("infer", street, "--run", "first", "--no-video", "--output", out)
    with services(fresh, max_kept=SECONDS) as (detector, names):
        stal_cli(*words, *names)
        said = stal_cli(*words, *names, "--keep-features")
        assert_same(out, local / "first")
        assert len(detector.answered) == 2 * SECONDS
        (command,) = re.findall("'(predict .*)'", said)
        for run in ("first", "seeing"):
            again = tmp_path / run / "predictions.csv"
            stal_cli(*command.split(), "--run", run, *names[2:], "--output", again)
            assert_same(again.parent, local / run)
    # It has the name that it has when this machine makes it.
    (theirs,) = store.glob("features/*/all/*/zarr.json")
    assert (fresh / theirs.relative_to(store)).exists()
    with services(fresh) as (_, names):
        elsewhere = [*words[:-1], tmp_path / "refused", *names]
        assert "start it with --keep-features" in refusal(*elsewhere, "--keep-features")
    assert "--keep-features needs --recognizer" in refusal(*words, "--keep-features")


def test_killed_without_torch_it_goes_on_behind_the_last_answer(
    store: Path, street: Path, local: Path, tmp_path: Path
) -> None:
    out, path = tmp_path / "out", os.pathsep.join([str(tmp_path), ENVIRONMENT["PYTHONPATH"]])
    (tmp_path / "sitecustomize.py").write_text(NO_TORCH)  # for the processes of the stages, too
    with services(store) as (detector, names):
        words = ["infer", str(street), *names, "--run", "seeing", "--output", str(out)]
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, *words],
            env=ENVIRONMENT | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert killed.returncode == -9, killed.stderr
        unfinished = (out / "videos" / "street" / "recognize.unfinished").read_text()
        found = {time_ms for time_ms in range(0, 1000 * SECONDS, 1000) if f'"time_ms": {time_ms},' in unfinished}
        assert {0, 1000, 2000, 3000} <= found
        result = CliRunner().invoke(root, words)
        assert result.exception is None, result.output
    assert f"3 of {SECONDS} key frames have their answers" in result.stderr
    asked = sorted(name.partition(",")[2] for name in detector.taken)
    assert len(set(asked)) == SECONDS
    assert all(asked.count(f"{time_ms // 1000:04d}") == 1 for time_ms in found)
    assert_same(out, local / "seeing")
    assert not list((out / "videos" / "street").glob("*.unfinished"))


def test_a_recognizer_that_stays_away_is_an_error_and_the_answers_are_kept(
    store: Path, street: Path, local: Path, in_process: Inference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recognizer_svc.video.client._RESTART", RetryPolicy(retries=1, first_s=0.01))
    detector, add_scores = ReplicaService(), KeptKeyFrames.add_scores
    words = ["infer", street, "--run", "first", "--output", tmp_path / "out", "--no-video"]
    with in_a_thread(detector) as port, ExitStack() as stack:
        words += ["--detector", f"127.0.0.1:{port}"]
        address = stack.enter_context(recognizer(store))

        def then_gone(kept: KeptKeyFrames, item: ScoredKeyFrame) -> None:
            add_scores(kept, item)
            stack.close()

        with monkeypatch.context() as patch:
            patch.setattr(KeptKeyFrames, "add_scores", then_gone)
            with pytest.raises(ServiceUnavailableError, match=rf"{address}[\s\S]*street so far are kept: the same"):
                stal_cli(*words, "--recognizer", address)
        with recognizer(store) as other:
            assert "key frames have their answers" in stal_cli(*words, "--recognizer", other)
    assert_same(tmp_path / "out", local / "first")
    assert in_process.ran == ["dataset"]


def test_a_bad_video_does_not_end_the_others_and_the_run_must_be_known(
    store: Path, street: Path, local: Path, in_process: Inference, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    shutil.copytree(store.parent, tmp_path / "made")
    with services(tmp_path / "made" / "store") as (_, names):
        words = ["infer", bad, street, *names, "--no-video", "--frames", "png", "--output", tmp_path / "out"]
        assert "The recognizer has 2 runs (first, seeing); name one with --run" in refusal(*words)
        assert "third" in refusal(*words, "--run", "third")
        assert not (tmp_path / "out").exists()
        with pytest.raises(StalError, match=r"1 of 2 videos failed:\nbad: "):
            stal_cli(*words, "--run", "first")
        assert_same(tmp_path / "out", local / "first")
        shutil.rmtree(tmp_path / "made" / "store" / "runs" / "seeing")
        stal_cli("infer", street, *names, "--no-video", "--frames", "jpeg", "--output", tmp_path / "out")
        np.testing.assert_allclose(scores(tmp_path / "out"), scores(local / "first"), atol=0.1)


class Crossing(ReplicaService):
    """Sees two people who swap their places every second, more sure of whoever is on the left."""

    async def Detect(self, request_iterator, context):
        async for request in request_iterator:
            self.taken.append(request.frame_id)
            name = request.frame_id.partition(",")[2]
            number = int(name.removeprefix("frame ")) if "frame" in name else 25 * int(name) + 1
            x = 0.5 * (1 - abs((number - 1) % 50 - 25) / 25)
            people = sorted([(x, 0.1), (0.5 - x, 0.5)])
            boxes = [side for left, top in people for side in (left, top, left + 0.3, top + 0.4)]
            yield pb.DetectResponse(frame_id=request.frame_id, detections=pb.Detections(boxes=boxes, scores=[0.9, 0.8]))


def test_tracked_people_are_those_of_this_machine(
    store: Path, street: Path, in_process: Inference, tmp_path: Path
) -> None:
    pytest.importorskip("trackers")
    here, there, detector = tmp_path / "here", tmp_path / "there", Crossing()
    in_process.store = shutil.copytree(store.parent, tmp_path / "made") / "store"
    with in_a_thread(detector) as port, recognizer(store) as address:
        words = ["--track", "--no-video", "--detector", f"127.0.0.1:{port}"]
        in_process(street, here, *words, run="seeing")
        detector.taken.clear()
        stal_cli("infer", street, *words, "--recognizer", address, "--run", "seeing", "--output", there)
        assert in_process.ran[4:] == ["dataset", "detect"]
        assert len(detector.taken) == len(set(detector.taken)) == 5 * (SECONDS - 1) + 1
        assert_same(there, here)
        persons = np.loadtxt(there / "predictions.csv", delimiter=",", usecols=(3, 8))
        assert persons[:, 1].tolist() == [1 if top < 0.3 else 2 for top in persons[:, 0]]
        found, wanted = (np.loadtxt(path / "actions.csv", delimiter=",", dtype=str) for path in (there, here))
        assert len(found) > 1
        assert found[:, :-1].tolist() == wanted[:, :-1].tolist()
        np.testing.assert_allclose(found[1:, -1].astype(float), wanted[1:, -1].astype(float), rtol=0, atol=EXACT)
        stal_cli("infer", street, *words[1:], "--recognizer", address, "--run", "seeing", "--output", there)
        assert not (there / "actions.csv").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--recognizer", "a:1"], "--recognizer needs --detector"),
        (["--run", "first", "--store", "s", "--frames", "png"], "--frames needs --recognizer"),
        (["--recognizer", "a:1", "--detector", "b:1", "--flip-average"], "--flip-average cannot be used"),
        (["--recognizer", "a:1", "--detector", "b:1", "--store", "s"], "--store cannot be used with --recognizer: the"),
        (["--recognizer", "a:1", "--detector", "b:1", "--vit", "random:0"], "--vit cannot be used"),
        (["--recognizer", "a:1", "--detector", "b:1", "--confidence", "0.4"], "--confidence cannot be used"),
        (["--recognizer", "a:1", "--detector", "b:1", "--run", "first"], "'b:1' is another machine"),
    ],
)
def test_options_that_say_nothing_to_services_are_refused(
    street: Path, tmp_path: Path, options: list[str], reason: str
) -> None:
    assert reason in refusal("infer", street, *options, "--output", tmp_path / "out")


@given(cut=st.integers(0, 2000), flip=st.booleans())
def test_what_follows_damage_in_the_kept_answers_is_made_again(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flip: bool
) -> None:
    path = tmp_path_factory.mktemp("kept") / "unfinished"

    def add(kept: KeptKeyFrames, *times_ms: int) -> None:
        for time_ms in times_ms:
            boxes_N4 = np.full((2, 4), time_ms, np.float32)
            item = ScoredKeyFrame(key=KeyFrame("v", time_ms), boxes_N4=boxes_N4, scores_NC=boxes_N4[:, :3] / 7)
            kept.add_people(time_ms, FrameDetections(boxes_N4=boxes_N4, scores_N=boxes_N4[:, 0]))
            kept.add_scores(item)

    with KeptKeyFrames(path, "v", {"head": "a"}) as kept:
        add(kept, *range(5))
    whole = bytearray(path.read_bytes())
    cut %= len(whole)
    whole[cut] ^= flip
    path.write_bytes(whole if flip else whole[:cut])
    with KeptKeyFrames(path, "v", {"head": "a"}) as kept:
        left = -1 if kept.answered_ms is None else kept.answered_ms
        assert kept.num_answered == left + 1 < 5
        add(kept, *range(left + 1, 5))
        assert [item.scored.key.time_ms for item in kept.scored()] == list(range(5))
        for scored, confidence_N in kept.scored():
            assert (scored.scores_NC == np.float32(scored.key.time_ms) / 7).all()
            assert (confidence_N == scored.boxes_N4[:, 0]).all()
    with KeptKeyFrames(path, "v", {"head": "b"}) as kept:
        assert (kept.answered_ms, kept.people) == (None, {})
