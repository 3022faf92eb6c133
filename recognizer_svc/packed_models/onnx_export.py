"""A packed model's head and backbones as ONNX files, for programs without torch. N people."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cache.backbones import BACKBONES
from cache.backbones.architectures import config_of
from cache.backbones.load import load_backbone
from cache.exact_float32 import exact_float32
from cache.files import sync_tree
from cache.onnx_files import import_onnx, write_onnx
from cache.spec import BackboneSpec
from cache.statistics import statistic_of
from recognizer_svc.heads import HEADS
from recognizer_svc.heads.batch import HeadBatch
from recognizer_svc.packed_models.description import PackedModel, check_new_folder
from recognizer_svc.packed_models.install import packed_checkpoint
from recognizer_svc.training.checkpoint import Checkpoint
from stal_data.errors import ConflictError, InputError
from stal_data.work_folder import work_folder

TOLERANCE = 1e-4
"""Largest difference to torch: of scores, and of an array in shares of its largest value. Sums differ in order."""


class _Network(nn.Module):
    """A function that runs a module, as a module that can be traced."""

    def __init__(self, module: nn.Module, function: Callable[..., Sequence[Tensor]]) -> None:
        super().__init__()
        self.module, self.forward = module, function


def export_onnx(model: PackedModel, output: Path) -> dict[str, float]:
    """Write head.onnx and, of each backbone in the model's folder, KIND.onnx to a folder that must be new or empty.

    head.onnx: boxes [N, 4] and the arrays of one key frame that scoring needs, by name [1, ...] -> scores [N, classes].
    KIND.onnx: clip [1, 3, T, H, W], normalised as by `stal_data.preprocess` -> those arrays that are of it, by name.
    All are float32, boxes x1,y1,x2,y2 in [0,1]. What cannot be exact is refused (InputError), and so is a file whose
    results are not torch's (ConflictError); then nothing is written.
    Returns each file's largest difference to torch on noise, as in TOLERANCE.
    """
    check_new_folder(output)
    import_onnx(output)
    exact_float32()
    checkpoint, _ = packed_checkpoint(model)
    packed = {kind: path for kind in model.feature_spec.kinds if (path := model.backbone_file(kind)) is not None}
    if problem := _inexact(checkpoint, packed):
        raise InputError(f"'{model.folder}' cannot be exported exactly: {problem}.")
    about = {"run": model.run, "feature_spec": model.feature_spec.canonical()}
    with work_folder(output) as folder, torch.inference_mode():
        taken, difference = _export_head(checkpoint, folder / "head.onnx", about | {"digest": model.head})
        found = {"head.onnx": difference}
        for kind, weights in packed.items():
            path, spec = folder / f"{kind}.onnx", model.feature_spec.backbone(kind)
            found[path.name] = _export_backbone(spec, taken, weights, path, about | {"digest": spec.weights})
        sync_tree(folder)
        folder.rename(output)
    return found


def _inexact(checkpoint: Checkpoint, packed: Collection[str]) -> str | None:
    """Why a file would not do what the model does, and the way out."""
    recipe, autocast = checkpoint.recipe, checkpoint.feature_spec.autocast
    for name in ("neighbours", "bank_s"):
        if getattr(recipe.data, name):
            return f"its head looks at other key frames (data.{name}); export one that was trained without"
    plugins = {recipe.head.kind} - HEADS.keys() | set(packed) - BACKBONES.keys()
    if plugins:
        return f"whether code of the plugin '{min(plugins)}' can be traced is unknown; use heads and backbones of STAL"
    if packed and autocast != "none":
        return f"its features are of autocast {autocast}, an ONNX backbone's of float32; pack the run without backbones"
    return None


def _export_head(checkpoint: Checkpoint, path: Path, about: Mapping[str, str]) -> tuple[list[str], float]:
    head, loss, shapes = checkpoint.build_head(), checkpoint.recipe.loss, checkpoint.shapes.arrays
    random = torch.Generator().manual_seed(0)

    def inputs(people: int, scale: float) -> dict[str, Tensor]:
        boxes_N4 = torch.rand(people, 2, 2, generator=random).sort(dim=1).values.flatten(1)
        arrays = {name: scale * torch.randn(1, *shape, generator=random) for name, shape in shapes.items()}
        return {"boxes": boxes_N4, **arrays}

    def scores(boxes_N4: Tensor, *arrays: Tensor) -> Sequence[Tensor]:
        people = boxes_N4.shape[0]
        # onnxruntime refuses some operations on nothing, so where nobody is there, somebody is, and is left out again.
        boxes_N4 = torch.cat([boxes_N4, boxes_N4.new_zeros(1, 4)])[: people + (people == 0)]
        clip_of_N = torch.zeros_like(boxes_N4[:, 0], dtype=torch.int64)
        features = dict(zip(shapes, arrays, strict=True))
        return (loss.scores(head(HeadBatch(features=features, boxes_N4=boxes_N4, clip_of_N=clip_of_N)))[:people],)

    labels = [asdict(label) for label in checkpoint.label_map.labels]
    about = {**about, "labels": json.dumps(labels, ensure_ascii=False), "layout": checkpoint.recipe.data.layout}
    # At the larger scale alone, all scores might be 0 or 1.
    tries = [inputs(people, scale) for people in (3, 0, 1, 7, 40) for scale in (0.1, 1.0)]
    return _export(path, _Network(head, scores).eval(), ["scores"], about, tries)


def _export_backbone(
    spec: BackboneSpec, taken: Collection[str], weights: Path, path: Path, about: Mapping[str, str]
) -> float:
    loaded = load_backbone(spec.kind, weights=str(weights), preset=spec.preset)
    if loaded.spec.weights != spec.weights:
        raise ConflictError(f"'{weights}' holds {loaded.spec.weights}, but the head takes {spec.weights}. Pack again.")
    arrays = [array for array in spec.readable if array.name in taken]

    def statistics(clip_13THW: Tensor) -> Sequence[Tensor]:
        maps = loaded.model(clip_13THW)
        return [statistic_of(array.statistic).compute(maps[array.map]) for array in arrays]

    shape = (1, 3, config_of(spec).num_frames, spec.height, spec.width)
    clip = {"clip": torch.randn(shape, generator=torch.Generator().manual_seed(0))}
    network = _Network(loaded.model, statistics).eval()
    return _export(path, network, [array.name for array in arrays], about, [clip])[1]


def _export(
    path: Path, network: nn.Module, outputs: list[str], about: Mapping[str, str], tries: Sequence[Mapping[str, Tensor]]
) -> tuple[list[str], float]:
    """Write the file, traced on the first of `tries`, and compare it on all; return its inputs and the difference."""
    _, runtime = import_onnx(path)
    free = {"boxes": "people", "scores": "people"} if "boxes" in tries[0] else {}
    try:
        write_onnx(path, network, tries[0], outputs, free=free, metadata=about)
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path.name} cannot be written: torch knows no ONNX for a part of it ({reason}).") from error
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # its errors come as exceptions, too
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    differences = []
    for inputs in tries:
        found = session.run(outputs, {name: inputs[name].numpy() for name in names})
        for ours, theirs in zip(network(*inputs.values()), found, strict=True):
            differences.append(_difference(ours.numpy(), theirs))
    difference = float(np.max(differences))
    if not difference <= TOLERANCE:
        raise ConflictError(
            f"The results of {path.name} differ from torch's by {difference:.2g} (at most {TOLERANCE}), so nothing was "
            "written. Score with 'stal-cli infer --model'."
        )
    return names, difference


def _difference(ours_X: NDArray[np.float32], theirs_X: NDArray[np.float32]) -> float:
    """The largest difference, in shares of the largest value where that is above 1; NaN where one is NaN."""
    if ours_X.shape != theirs_X.shape:
        return np.inf
    return float(np.abs(ours_X - theirs_X).max(initial=0) / max(1, np.abs(ours_X).max(initial=0)))
