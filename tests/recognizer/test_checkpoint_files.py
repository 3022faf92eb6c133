"""Checkpoint files: what was saved is what is read, and damage is an error that names the file."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.training.checkpoint import Checkpoint, Progress, load_checkpoint, save_checkpoint
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.loop import StopSignal
from recognizer_svc.training.recipe import parse_recipe
from recognizer_svc.training.run import train_run
from stal_data.errors import InputError
from tests.recognizer.feature_maps import feature_shapes
from tests.recognizer.toy_store import ACAR, LABELS, toy_spec


def make(optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer] | None) -> Checkpoint:
    layer = nn.Linear(3, 2)
    state = {}
    if optimizer is not None:
        made = optimizer(list(layer.parameters()))
        layer(torch.ones(1, 3)).sum().backward()
        made.step()
        state = made.state_dict()
    return Checkpoint(
        recipe=parse_recipe(ACAR),
        label_map=LABELS,
        feature_spec=toy_spec(),
        shapes=feature_shapes(slow=(6, 8, 12), fast=(3, 8, 12), vit=None, vit_frames=0),
        head_state=layer.state_dict(),
        optimizer_state=state,
        progress=Progress(epochs_done=1, validation_map=1 / 3),
    )


def save_as_before(path: Path, checkpoint: Checkpoint) -> None:
    """As earlier versions did."""
    content = {
        "version": 1,
        "recipe": checkpoint.recipe.to_yaml(),
        "label_map": checkpoint.label_map.to_pbtxt(),
        "feature_spec": checkpoint.feature_spec.canonical(),
        "shapes": checkpoint.shapes.to_dict(),
        "head": checkpoint.head_state,
        "slowfast": checkpoint.backbone_state,
        "optimizer": checkpoint.optimizer_state,
        "progress": asdict(checkpoint.progress),
    }
    torch.save(content, path)


def assert_same(a: Checkpoint, b: Checkpoint) -> None:
    assert (a.recipe, a.label_map, a.feature_spec, a.shapes, a.progress) == (
        *(b.recipe, b.label_map, b.feature_spec, b.shapes, b.progress),
    )
    torch.testing.assert_close(dict(a.head_state), dict(b.head_state), rtol=0, atol=0)
    before, after = a.optimizer_state, b.optimizer_state
    groups = [json.dumps(state.get("param_groups"), sort_keys=True) for state in (before, after)]
    assert groups[0] == groups[1]
    torch.testing.assert_close(before.get("state"), after.get("state"), rtol=0, atol=0)


OPTIMIZERS = {
    "none": None,
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("save", [save_checkpoint, save_as_before])
def test_what_was_saved_is_read(tmp_path, kind, save):
    checkpoint = make(OPTIMIZERS[kind])
    save(tmp_path / "latest", checkpoint)
    found = load_checkpoint(tmp_path / "latest")
    assert_same(found, checkpoint)
    if kind != "none":
        OPTIMIZERS[kind](list(nn.Linear(3, 2).parameters())).load_state_dict(found.optimizer_state)


def test_the_same_checkpoint_gives_the_same_file(tmp_path):
    checkpoint = make(OPTIMIZERS["adamw"])
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, checkpoint)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("save", [save_checkpoint, save_as_before])
def test_no_flipped_bit_changes_what_is_read(tmp_path, save):
    path = tmp_path / "latest"
    checkpoint = make(OPTIMIZERS["momentum"])
    save(path, checkpoint)
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 1 << (place % 8)
        try:
            found = load_checkpoint(path, bytes(damaged))
        except InputError:
            continue
        assert_same(found, checkpoint)  # a flip in a file's padding


def test_two_parts_of_one_name_are_damage(tmp_path):
    """One flipped bit in the directory of an earlier file makes data/0 the second data/1."""
    path = tmp_path / "latest"
    save_as_before(path, make(OPTIMIZERS["momentum"]))
    content = bytearray(path.read_bytes())
    content[content.rindex(b"latest/data/0") + len(b"latest/data/")] ^= 1
    with pytest.raises(InputError, match="two of its parts have the same name"):
        load_checkpoint(path, bytes(content))


def test_a_part_of_an_earlier_file_that_is_marked_as_a_folder_reads_all_the_same(tmp_path):
    """The mark is one bit that no CRC covers; torch's reader returns memory that nobody has filled then."""
    path, checkpoint = tmp_path / "latest", make(OPTIMIZERS["momentum"])
    save_as_before(path, checkpoint)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")  # of the central directory
    while entry >= 0:
        content[entry + 38] |= 1 << 4  # MS-DOS' attribute of a folder
        entry = content.find(b"PK\x01\x02", entry + 1)
    assert_same(load_checkpoint(path, bytes(content)), checkpoint)


def test_a_header_length_that_spells_pk_is_no_zip_file(tmp_path):
    path, checkpoint = tmp_path / "latest.safetensors", make(None)
    save_checkpoint(path, replace(checkpoint, head_state={"x": torch.ones(1)}))
    length = int.from_bytes(path.read_bytes()[:8], "little")
    wanted = int.from_bytes(b"PK", "little")
    checkpoint = replace(checkpoint, head_state={"x" * (1 + wanted - length): torch.ones(1)})
    save_checkpoint(path, checkpoint)
    assert path.read_bytes().startswith(b"PK")
    assert_same(load_checkpoint(path), checkpoint)


@pytest.mark.parametrize("size", [0, 1, 8, 500, -1])
def test_a_truncated_file_is_damaged(tmp_path, size):
    path = tmp_path / "latest.safetensors"
    save_checkpoint(path, make(OPTIMIZERS["momentum"]))
    with pytest.raises(InputError, match=r"latest.safetensors' is damaged"):
        load_checkpoint(path, path.read_bytes()[:size])


def test_a_run_of_an_earlier_version_goes_on_in_the_new_format(new_run):
    whole, old = new_run("whole"), new_run("old")
    train_run(whole, Ranks())
    train_run(old, Ranks(), StopSignal(requested=True))
    path = old.checkpoint("latest")
    save_as_before(path.with_suffix(".pt"), load_checkpoint(path))
    path.unlink()
    train_run(old, Ranks())
    assert [path.name for path in (old.root / "checkpoints").iterdir() if path.suffix == ".pt"] == []
    assert_same(load_checkpoint(old.checkpoint("latest")), load_checkpoint(whole.checkpoint("latest")))


def test_damage_stops_a_resumed_run_before_it_changes_anything(new_run):
    run: RunDir = new_run("damaged")
    train_run(run, Ranks(), StopSignal(requested=True))
    path = run.checkpoint("latest")
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"latest.safetensors' is damaged: its sha256 .* --resume trains"):
        train_run(run, Ranks())
    assert path.read_bytes() == content
