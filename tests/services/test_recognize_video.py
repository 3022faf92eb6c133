"""RecognizeVideo: the scores of precompute and predict, without either."""

import pytest
import torch

from tests.services.video_case import RUNS, VideoCase, serving, worst

EXACT = 1e-6


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """So that sums are added in the same order here and in the service."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> VideoCase:
    return VideoCase.make(tmp_path_factory.mktemp("video"))


@pytest.mark.parametrize("sending", ["resized", "png"])
@pytest.mark.parametrize("run_id", RUNS)
async def test_scores_are_those_of_precompute_and_predict(case: VideoCase, run_id: str, sending: str) -> None:
    wanted = await case.expected(run_id)
    async with serving(case) as (client, _, _):
        found = await case.scores(client, case.request(run_id, sending=sending))
    assert worst(found, {key: scores for key, scores in wanted.items() if key.video == "v0"}) <= EXACT
    assert [key.time_ms for key in found] == [item.time_ms for item in case.people("v0")]
