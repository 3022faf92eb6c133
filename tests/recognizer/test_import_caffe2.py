"""PySlowFast's first files, pickled by Python 2 with Caffe2's names: the networks that come out compute the same."""

import io
import pickle
import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from cache.backbones.foreign import read_foreign
from cache.backbones.load import load_backbone
from recognizer_svc.training.import_checkpoint import import_checkpoint
from stal_data.errors import InputError
from tests.recognizer.test_import_layouts import CLIPS, SLOWFASTS, public_slowfast, small_slowfast
from tests.tolerances import FEATURES, check, of_the_largest

LAST_BLOCK = {"2": 0, "3": 0, "4": 2}
"""Of the small network's stages, in Caffe2's count."""


def caffe2_name(name: str) -> str:
    """The name in Caffe2 of a tensor of PySlowFast."""
    layer, _, kind = name.rpartition(".")
    norm = layer.endswith("bn")
    end = {"weight": "s" if norm else "w", "bias": "b", "running_mean": "rm", "running_var": "riv"}[kind]
    if found := re.fullmatch(r"s1\.pathway(\d)_stem\.(conv|bn)", layer):
        return f"{'t_' * int(found[1])}{'res_conv1_bn' if norm else 'conv1'}_{end}"
    if found := re.fullmatch(r"s(\d)_fuse\.(conv_f2s|bn)", layer):
        before = "t_pool1" if found[1] == "1" else f"t_res{found[1]}_{LAST_BLOCK[found[1]]}_branch2c_bn"
        return f"{before}_subsample{'_bn' * norm}_{end}"
    if found := re.fullmatch(r"s4\.pathway0_nonlocal(\d+)\.(?:conv_)?(\w+)", layer):
        return f"nonlocal_conv4_{found[1]}_{found[2]}_{end}"
    found = re.fullmatch(r"s(\d)\.pathway(\d)_res(\d+)\.branch(1|2\.\w)(_bn)?", layer)
    assert found, name
    return f"{'t_' * int(found[2])}res{found[1]}_{found[3]}_branch{found[4].replace('.', '')}{found[5] or ''}_{end}"


class _Python2(pickle._Pickler):
    """Writes text as Python 2 writes `str`, and bytes as the same."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_text(self, value: str | bytes) -> None:
        content = value.encode("latin-1") if isinstance(value, str) else value
        self.write(pickle.BINSTRING + len(content).to_bytes(4, "little") + content)

    dispatch[str] = dispatch[bytes] = save_text


def written(path: Path, tensors: dict[str, Tensor]) -> Path:
    blobs: dict[str, object] = {}
    for name, tensor in tensors.items():
        if not name.endswith("num_batches_tracked"):
            blobs[caffe2_name(name)] = tensor.numpy()
            blobs[f"{caffe2_name(name)}_momentum"] = np.zeros(tensor.shape, np.float32)
    blobs |= {"pred_w": np.ones((4, 40), np.float32), "lr": np.float32([0.1]), "model_iter": np.array([7])}
    file = io.BytesIO()
    _Python2(file, protocol=2).dump({"blobs": blobs})
    path.write_bytes(file.getvalue())
    return path


@pytest.mark.parametrize("preset", ["r50", "r50-4x16", "r101", "r101-nonlocal"])
def test_a_file_of_caffe2_gives_the_maps_of_its_network(tmp_path: Path, preset: str) -> None:
    tensors, maps = public_slowfast(preset)
    config = small_slowfast(preset, SLOWFASTS[preset].nonlocal_blocks)
    path = written(tmp_path / "SLOWFAST.pkl", tensors)
    done = import_checkpoint(path, "slowfast", tmp_path / "out", sizes={"slowfast": (preset, config)})
    [file] = done.files
    with torch.inference_mode():
        found = load_backbone("slowfast", weights=str(file.path)).model(CLIPS)
    for name, expected in maps.items():
        check(name, of_the_largest(found[name], expected), FEATURES)
    assert file.ignored["pred_w"] == "the classifier"
    others = {name: reason for name, reason in file.ignored.items() if name != "pred_w"}
    assert set(others.values()) == {"training state"}
    assert {"lr", "model_iter", "t_res2_0_branch2a_w_momentum"} < others.keys()
    assert len(file.zeroed) == sum(name.endswith("tracked") for name in tensors) > 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "res3_0_branch2a_w",
            "nonlocal_conv3_1_bn_s",
            "1 tensors with names of PySlowFast in Caffe2 .*: nonlocal_conv3_1_bn_s",
        ),
        ("t_res4_2_branch2c_bn_subsample_w", "pred_b", r"missing: Tconv4\.0\.weight"),
        ("res_conv1_bn_rm", "res_conv1_other", r"missing: slow_bn1\.running_mean|res_conv1_other"),
    ],
)
def test_files_of_another_network_are_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = written(tmp_path / "a.pkl", public_slowfast("r50")[0])
    blobs = pickle.loads(path.read_bytes(), encoding="latin1")["blobs"]
    blobs[new] = blobs.pop(old)
    path.write_bytes(pickle.dumps({"blobs": blobs}, protocol=2))
    with pytest.raises(InputError, match=message):
        import_checkpoint(path, "slowfast", tmp_path / "out", sizes={"slowfast": ("r50", small_slowfast("r50"))})


def test_nothing_in_a_pickle_of_caffe2_runs(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "a.pkl"
    path.write_bytes(b"\x80\x02cposix\nsystem\nX" + len(f"touch {marker}").to_bytes(4, "little"))
    path.write_bytes(path.read_bytes() + f"touch {marker}".encode() + b"\x85R.")
    with pytest.raises(InputError, match=r"posix\.system"):
        read_foreign(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())  # else this test could not fail
    assert marker.exists()
    torch.save({"a": torch.ones(1)}, path, _use_new_zipfile_serialization=False)
    assert read_foreign(path).tensors.keys() == {"a"}  # torch's own .pkl files stay readable
