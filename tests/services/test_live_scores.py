"""What `watch` prints is what RecognizeVideo answers on the same frames."""

import pytest
import torch

from cli.workflow.streaming.source import Shot
from tests.cli.live_case import LABELS, Services, opening, read
from tests.detector.replica import ReplicaService
from tests.services.echo import serving as serving_echo
from tests.services.test_video_pipeline import expected
from tests.services.video_case import FRAMES, VideoCase, serving


@pytest.mark.parametrize("run_id", ["plain", "seeing"])
async def test_scores_are_those_of_recognize_video(
    run_id: str, video_case: VideoCase, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    pictures = [video_case.picture("v0", number) for number in range(1, FRAMES + 1)]
    feed = [Shot(number / 25, (128, 72), lambda it=it: it) for number, it in enumerate(pictures)]
    async with serving(video_case) as it, serving_echo(ReplicaService()) as (detector, _):
        services = Services(None, None, (detector.port, it.server.port))
        await services.watch(opening(feed), run_id=run_id, min_score=0, max_lag_s=10)
    records, _ = read(capsys)
    assert {record["source_ms"]: record["people"][0]["actions"] for record in records} == {
        key.time_ms: pytest.approx(dict(zip(LABELS, scores_NC[0].tolist(), strict=True)), abs=1e-4)
        for key, scores_NC in (await expected(video_case, run_id)).items()
    }
