"""Pickled checkpoints from elsewhere: their tensors come out, whatever they lie under, and nothing in them runs."""

import argparse
import builtins
import os
import subprocess
from collections import OrderedDict
from contextlib import suppress

import numpy as np
import pytest
import torch

from cache.backbones.foreign import read_foreign
from stal_data.errors import InputError, NotFoundError

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}


class Scheduler:
    """Training state that some codes pickle as an object."""

    def __init__(self) -> None:
        self.last_epoch = 12


class Hostile:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def written(path, content, *, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
@pytest.mark.parametrize(
    ("wrap", "found_under"),
    [
        (lambda tensors: tensors, ()),
        (lambda tensors: {"model": OrderedDict(tensors)}, ("model",)),
        (lambda tensors: {"module": tensors}, ("module",)),
        (lambda tensors: {"epoch": 3, "model_state": tensors, "cfg": "text"}, ("model_state",)),
        (
            lambda tensors: {"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}},
            ("state_dict",),
        ),
        (lambda tensors: {"model": {"state_dict": tensors}, "lr": 0.1}, ("model", "state_dict")),
    ],
)
def test_tensors_are_found_wherever_they_lie(tmp_path, zipped, wrap, found_under):
    checkpoint = read_foreign(written(tmp_path / "c.pth", wrap(TENSORS), zipped=zipped))
    assert checkpoint.found_under == found_under
    assert checkpoint.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensor, TENSORS[name]) for name, tensor in checkpoint.tensors.items())


def test_what_lies_beside_the_tensors_is_listed(tmp_path):
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    content = {
        "epoch": 12,
        "state_dict": TENSORS | {"version": 2},
        "optimizer": optimizer,
        "scheduler": {"milestones": [5]},
    }
    checkpoint = read_foreign(written(tmp_path / "c.pth.tar", content))
    assert checkpoint.epoch == 12
    assert checkpoint.ignored == {
        "epoch": "beside the weights",
        "optimizer": "beside the weights",
        "scheduler": "beside the weights",
        "state_dict.version": "no tensor but a int",
    }


@pytest.mark.parametrize(
    ("thing", "name"),
    [
        (argparse.Namespace(lr=0.1), "argparse.Namespace"),
        (np.float64(0.1), "multiarray.scalar"),
        (Scheduler(), "Scheduler"),
        ([Scheduler(), argparse.Namespace(inner=np.float32(2))], "Namespace"),
    ],
    ids=["arguments", "numpy scalar", "scheduler", "several"],
)
def test_training_state_of_foreign_classes_is_named_and_can_be_left_out(tmp_path, thing, name):
    path = written(tmp_path / "c.pth", {"model": TENSORS, "state": thing})
    with pytest.raises(InputError, match=rf"{name}.*--skip-objects"):
        read_foreign(path)
    checkpoint = read_foreign(path, skip_objects=True)
    assert torch.equal(checkpoint.tensors["a.weight"], TENSORS["a.weight"])
    assert any(name in ignored for ignored in checkpoint.ignored)
    with pytest.raises(InputError, match="--skip-objects"):  # nothing stays allowed
        read_foreign(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
@pytest.mark.parametrize("skip_objects", [False, True])
@pytest.mark.parametrize(
    "hostile",
    [
        lambda marker: Hostile(os.system, f"touch {marker}"),
        lambda marker: Hostile(builtins.exec, f"open({str(marker)!r}, 'w').close()"),
        lambda marker: Hostile(subprocess.Popen, ["touch", str(marker)]),
        lambda marker: Hostile(builtins.getattr, Hostile(__import__, "os"), "system"),
        lambda marker: {Hostile(os.mkdir, str(marker)): 1},
    ],
    ids=["os.system", "exec", "Popen", "getattr", "as a key"],
)
def test_a_hostile_pickle_runs_nothing(tmp_path, hostile, skip_objects, zipped):
    marker = tmp_path / "marker"
    path = written(tmp_path / "c.pth", {"model": TENSORS, "optimizer": hostile(marker)}, zipped=zipped)
    checkpoint = None
    with suppress(InputError):
        checkpoint = read_foreign(path, skip_objects=skip_objects)
    assert not marker.exists()
    assert checkpoint is None or skip_objects


def test_the_hostile_pickle_of_these_tests_would_run(tmp_path):
    """Else the test above could not fail."""
    marker = tmp_path / "marker"
    path = written(tmp_path / "c.pth", {"optimizer": Hostile(os.system, f"touch {marker}")})
    torch.load(path, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "list", "no tensors", "script"])
def test_other_files_are_clear_errors(tmp_path, damage):
    path = written(tmp_path / "c.pth", {"model": TENSORS})
    content = path.read_bytes()
    if damage == "list":
        written(path, [1, 2])
    elif damage == "no tensors":
        written(path, {"model": {"a": 1}})
    elif damage == "script":
        torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"not a checkpoint\n"}[damage])
    with pytest.raises(InputError, match=r"c\.pth"):
        read_foreign(path)
    with pytest.raises(NotFoundError, match="gone"):
        read_foreign(tmp_path / "gone.pth")


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants:UserWarning")
def test_tensors_without_values_are_refused(tmp_path):
    endless = torch.zeros(1).expand(10**12)  # 4 bytes in the file; looking at its values would take all memory
    for tensor in (torch.eye(3).to_sparse(), torch.empty(3, device="meta"), endless):
        with pytest.raises(InputError, match=r"without values of their own.*odd\.weight"):
            read_foreign(written(tmp_path / "c.pth", TENSORS | {"odd.weight": tensor}))
