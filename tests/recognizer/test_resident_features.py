"""Features that are read once and stay in memory: the same batches and runs as by reading them each time."""

import pytest
import torch

from cache.feature_store import FeatureSet
from cache.store import Store
from recognizer_svc.data import LabelledBatch
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.inputs import open_inputs
from recognizer_svc.training.recipe import parse_recipe
from recognizer_svc.training.resident import keep_resident
from recognizer_svc.training.run import train_run
from stal_data.errors import InputError, StalError
from tests.recognizer.run_results import assert_same, latest, values
from tests.recognizer.toy_store import ACAR

PLAN = [[0, 7, 3, 40], [], [36 + 2, 2], list(range(36))]
"""Clips of batches; from 36 on they are repetitions."""


def tensors(batch: LabelledBatch, device: torch.device) -> dict[str, torch.Tensor]:
    moved = batch.head.to(device)
    rest = {name: getattr(moved, name) for name in ("neighbour_boxes_NK4", "neighbour_row_NK")}
    known = {name: tensor for name, tensor in rest.items() if tensor is not None}
    return {**moved.features, "boxes": moved.boxes_N4, "clips": moved.clip_of_N, "targets": batch.targets_NC, **known}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(
    "words", [[], ["head={kind: relation}", "data.neighbours=1"], ["data.statistics=[moments, mean]"]], ids=str
)
def test_batches_are_those_that_are_read(
    toy_store: Store, monkeypatch: pytest.MonkeyPatch, words: list[str], device: str
) -> None:
    data = open_inputs(parse_recipe(ACAR, words), toy_store).train
    expected = [tensors(data.load(part, epoch), torch.device(device)) for epoch, part in enumerate(PLAN)]
    data.keep(torch.device(device), threads=2)

    def no_reading(*_: object) -> None:
        raise StalError("a row is read again")

    monkeypatch.setattr(FeatureSet, "read_into", no_reading)
    for (epoch, part), wanted in zip(enumerate(PLAN), expected, strict=True):
        found = tensors(data.load(part, epoch), torch.device(device))
        assert found.keys() == wanted.keys()
        assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
        assert found["slow"].dtype == torch.float32
        assert found["slow"].device.type == device


def test_a_run_is_that_which_reads(new_run) -> None:
    """Validation and mirrored clips included; a run says what it keeps, and `auto` keeps nothing on a CPU."""
    runs = {how: new_run(how, [f"data.resident={how}"]) for how in ("always", "auto", "never")}
    for run in runs.values():
        assert train_run(run, Ranks())
        assert_same(latest(run), latest(runs["always"]))
    messages = {how: [text for text in values(run, "log", "message") if "memory" in text] for how, run in runs.items()}
    assert messages["auto"] == messages["never"] == []
    assert [text.partition(" take ")[0] for text in messages["always"]] == [
        "the features for training",
        "the features for validation",
    ]
    assert all(text.endswith(" GB; they are read once and stay in the memory of cpu") for text in messages["always"])
    new_run("always", ["data.resident=never", "training.epochs=3"])
    assert train_run(runs["always"], Ranks())


def test_the_size_is_that_of_all_rows_in_both_views(toy_store: Store) -> None:
    inputs = open_inputs(parse_recipe(ACAR), toy_store)
    slow, fast, vit, moments = 6 * 8 * 12, 3 * 8 * 12, 5 * 10 * 14, 2 * 5
    of_row = 2 * (slow + fast + vit) + 4 * moments
    assert inputs.train.num_bytes == 2 * len(inputs.train) * of_row
    assert inputs.validation.num_bytes == len(inputs.validation) * of_row


def test_what_does_not_fit_is_refused(toy_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_inputs(parse_recipe(ACAR), toy_store).train
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(10**12))  # so many processes share the memory
    told: list[str] = []

    def keep(wanted: str) -> None:
        keep_resident({"training": data, "validation": None}, wanted, torch.device("cpu"), threads=1, say=told.append)

    with pytest.raises(
        InputError, match=r"data.resident is always, but the features for training take 0.00 GB, and 0.00"
    ):
        keep("always")
    keep("auto")
    assert not told
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    keep("always")
    assert told[0].endswith("they are read once and stay in the memory of cpu")
