"""Heads that are loaded by name: in place as a whole or not at all, and kept whatever becomes of their file."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache.store import Store
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from recognizer_svc.scoring.model_list import list_models
from recognizer_svc.scoring.served_models import MAX_SERVED, ServedModels
from recognizer_svc.training.checkpoint import load_checkpoint, save_checkpoint
from stal_data.errors import ConflictError, InputError, NotFoundError
from tests.services.conftest import TRAINED, Trained
from tests.services.recognizer_process import stal_cli

RUN = "served"
BOX = pb.Box(x1=0.1, y1=0.1, x2=0.5, y2=0.9)


@pytest.fixture
def checkpoint(trained: Trained) -> Iterator[Path]:
    """The file of a run that nobody else uses."""
    run = trained.store.runs_dir / RUN
    (run / "checkpoints").mkdir(parents=True)
    path = run / "checkpoints" / "latest.safetensors"
    shutil.copyfile(trained.store.runs_dir / TRAINED / "checkpoints" / "best.safetensors", path)
    yield path
    shutil.rmtree(run)


def change(path: Path) -> None:
    """Replace the checkpoint by one with other weights, as training does."""
    content = load_checkpoint(path)
    save_checkpoint(path, replace(content, head_state={name: half * 0.5 for name, half in content.head_state.items()}))


async def scores(client: RecognizerClient) -> tuple[str, list[float]]:
    request = pb.RecognizeRequest(run_id=RUN, dataset="toy", split="test", video="video0", time_ms=0, boxes=[BOX])
    model, found = await client.recognize(request)
    return model.digest, found.ravel().tolist()


async def test_a_loaded_head_stays_until_the_next_one_is_whole(trained: Trained, checkpoint: Path) -> None:
    async with RecognizerClient(trained.service.client) as client:
        first = await client.load_model(RUN)
        before = await scores(client)
        assert before[0] == first.digest
        assert [model.digest for model in await client.loaded_models()] == [first.digest]

        change(checkpoint)
        assert await scores(client) == before  # the file does not count

        whole = checkpoint.read_bytes()
        checkpoint.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match="is damaged"):
            await client.load_model(RUN)
        assert await scores(client) == before

        checkpoint.write_bytes(whole)
        second = await client.load_model(RUN)
        after = await scores(client)
        assert after[0] == second.digest != first.digest
        assert not np.allclose(after[1], before[1])

        await client.unload_model(RUN)
        assert await client.loaded_models() == []
        with pytest.raises(NotFoundError, match=f"Nobody has loaded '{RUN}'"):
            await client.unload_model(RUN)
        assert (await scores(client))[0] == second.digest  # by its file, as a head that nobody has loaded


async def test_a_swap_under_load_gives_whole_answers_only(trained: Trained, checkpoint: Path) -> None:
    async with RecognizerClient(trained.service.client) as client:
        first = await client.load_model(RUN)
        expected = {first.digest: (await scores(client))[1]}
        change(checkpoint)
        swapping = asyncio.create_task(client.load_model(RUN))
        seen = []
        while not swapping.done():
            seen += await asyncio.gather(*(scores(client) for _ in range(4)))
        second = await swapping
        expected[second.digest] = (await scores(client))[1]
        for digest, found in seen:
            np.testing.assert_allclose(found, expected[digest], rtol=1e-5)
        await client.unload_model(RUN)


def test_the_commands_load_list_and_unload(trained: Trained, checkpoint: Path) -> None:
    assert checkpoint.exists()
    address = ("--recognizer", trained.service.address)
    loaded = stal_cli("models", "load", RUN, *address)
    assert loaded.returncode == 0, loaded.stderr
    digest = loaded.stdout.split()[-1]
    assert digest.startswith("sha256:")
    asked = trained.service.log.count("/ListModels")
    listed = stal_cli("models", "list", *address).stdout
    assert trained.service.log.count("/ListModels") == asked + 1
    printed = json.loads(stal_cli("models", "list", *address, "--json").stdout)
    assert {model["run_id"]: model["digest"] for model in printed}[RUN] == digest
    rows = {line.split("│")[1].strip(): line for line in listed.splitlines() if "│" in line}
    assert digest in rows[RUN]
    assert "sha256:" not in rows[TRAINED]
    assert stal_cli("models", "unload", RUN, *address).returncode == 0
    again = stal_cli("models", "unload", RUN, *address)
    assert again.returncode == 1
    assert f"Nobody has loaded '{RUN}'" in again.stderr


def test_a_run_whose_events_do_not_read_is_left_out_of_the_list(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("good", "bad"):
        shutil.copytree(trained.store.runs_dir / TRAINED, tmp_path / "runs" / name)
    with (tmp_path / "runs" / "bad" / "events.jsonl").open("a") as file:
        file.write('{"seq": 99, "time": 1.0, "type": "checkpoint"}\n')
    assert [model.run_id for model in list_models(Store.open(tmp_path))] == ["good"]
    assert "run 'bad' is left out" in caplog.text


async def test_what_loading_refuses(trained: Trained) -> None:
    async with RecognizerClient(trained.service.client) as client:
        with pytest.raises(NotFoundError, match=f"Did you mean '{TRAINED}'"):
            await client.load_model("traned")
        with pytest.raises(InputError, match=r"run id is '\.\./trained'"):
            await client.load_model("../trained")
        with pytest.raises(InputError, match="best or latest"):
            await client.load_model(TRAINED, "first")
        assert await client.loaded_models() == []


def test_the_number_of_loaded_heads_is_bounded(trained: Trained) -> None:
    from recognizer_svc.scoring.models import load_run

    model = load_run(Store.open(trained.store.root), TRAINED, "", device="cpu")
    served = ServedModels()
    for number in range(MAX_SERVED):
        served.load(f"run{number}", "", lambda: model)
    served.load("run0", "", lambda: model)  # in the place of the one before
    with pytest.raises(ConflictError, match="Unload one first"):
        served.load("another", "", lambda: model)
    assert served.unload("run3", "")
    served.load("another", "best", lambda: model)
    assert served.get("another", "best") is model
    assert served.get("another", "") is None
