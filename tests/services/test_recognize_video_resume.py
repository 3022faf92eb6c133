"""Streams of RecognizeVideo that break, and services that stop: every key frame has one answer, the same as ever."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import torch

from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from stal_data.errors import ConflictError
from svc_common.client import call_metadata
from tests.services.recognizer_process import RecognizerProcess, stal_cli
from tests.services.test_recognize_video import EXACT, of
from tests.services.test_recognize_video_refusals import frames, people, start
from tests.services.video_case import RUNS, TIMES_MS, VideoCase, scored_by_services_that_end, serving, worst


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("late", [0, 60])
@pytest.mark.parametrize("grace_s", [0, 60], ids=["killed", "stopped"])
@pytest.mark.parametrize("run_id", RUNS)
async def test_a_video_goes_on_at_another_service(
    video_case: VideoCase, run_id: str, grace_s: float, late: int
) -> None:
    request = video_case.request(run_id, known=late == 0)
    async with scored_by_services_that_end(video_case, request, grace_s=grace_s, late=late) as (found, _):
        assert [key.time_ms for key in found] == list(TIMES_MS)
        assert worst(found, await of(video_case, run_id)) <= EXACT


async def test_a_service_that_stops_answers_what_it_has_and_says_so(video_case: VideoCase) -> None:
    async with serving(video_case) as it:
        go_on = asyncio.Event()

        async def requests():
            for request in (start(), *frames(range(1, 60)), people(440), people(1000)):
                yield request
            await go_on.wait()

        call = it.client._stub.RecognizeVideo(requests(), metadata=call_metadata())
        assert (await call.read()).HasField("header")
        with it.thread_held():
            async with asyncio.timeout(120):
                while len(next(iter(it.service._scoring.video.streams))._computing) < 2:
                    await it.client.get_info()
            stopping = asyncio.create_task(it.server.stop(60))
            while not it.server._unready():
                await asyncio.sleep(0)
        assert [(await call.read()).key_frame.time_ms for _ in range(2)] == [440, 1000]
        with pytest.raises(Exception, match="the service is stopping"):
            await call.read()
        go_on.set()
        await stopping


async def test_another_head_on_the_way_is_an_error(video_case: VideoCase, tmp_path: Path) -> None:
    async with AsyncExitStack() as services:
        it = await services.enter_async_context(serving(video_case))
        answers = it.client.recognize_video(video_case.request("plain"), video_case.items())
        await anext(answers)
        port = it.server.port
        await it.server.stop(0)
        other = VideoCase.make(tmp_path, "training.epochs=1")
        await services.enter_async_context(serving(other, port=port))
        with pytest.raises(ConflictError, match="scores with another head than before: plain"):
            async for _ in answers:
                pass


async def test_a_process_with_a_packed_model_is_stopped_by_sigterm_and_another_goes_on(
    video_case: VideoCase, tmp_path: Path
) -> None:
    model = tmp_path / "plain.stal"
    done = stal_cli("models", "pack", "plain", "--store", str(video_case.store.root), "--output", str(model))
    assert done.returncode == 0, done.stderr
    words = ["--model", str(model), "--device", "cpu", "--vit", "random:0", "--vit-preset", "tiny"]
    words += ["--backbone", "slowfast:tiny=random:0"]
    process = RecognizerProcess(tmp_path / "store", tmp_path, *words).start()
    try:
        async with RecognizerClient(process.client) as client:
            (run_id,) = [item.run_id for item in await client.list_models()]
            assert [item.kind for item in (await client.get_info()).backbones] == ["slowfast", "vit"]
            found = {}
            async for answer in client.recognize_video(video_case.request(run_id), video_case.items()):
                if isinstance(answer, pb.VideoHeader):
                    continue
                found[answer.key] = answer.scores_NC
                if len(found) == 3:
                    assert await asyncio.to_thread(process.stop) == 0
                    await asyncio.to_thread(process.start)
    finally:
        process.kill()
    assert worst(found, await of(video_case, "plain")) <= EXACT
