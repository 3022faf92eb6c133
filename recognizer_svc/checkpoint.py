"""Checkpoints: everything needed to continue a run or to score with it, loadable without unpickling code."""

import json
import pickle
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cache.files import replacing
from cache.spec import FeatureSpec
from recognizer_svc.heads.batch import FeatureShapes
from recognizer_svc.heads.build import build_head
from recognizer_svc.recipe import Recipe, parse_recipe
from recognizer_svc.train.loop import Totals
from stal_data.errors import InputError, NotFoundError
from stal_data.labels import LabelMap

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Best:
    """The best validation so far. epoch: from 1. map: in [0,1]."""

    epoch: int
    map: float


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come. Random numbers follow from (seed, epoch, step), so this stands for their state, too.

    epochs_done: finished epochs. steps_done: steps of the epoch after those.
    totals: sums over those steps.
    """

    epochs_done: int = 0
    steps_done: int = 0
    totals: Totals = field(default_factory=Totals)
    validation_map: float | None = None
    best: Best | None = None


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A head with its surroundings.

    feature_spec: of the identity view that the head knows; with a trained SlowFast its weights are those below.
    slowfast_state: SlowFast's tensors, where it is trained with the head.
    """

    recipe: Recipe
    label_map: LabelMap
    feature_spec: FeatureSpec
    shapes: FeatureShapes
    head_state: dict[str, Tensor]
    optimizer_state: dict[str, Any]
    progress: Progress
    slowfast_state: dict[str, Tensor] | None = None

    def build_head(self) -> nn.Module:
        """Return the trained head on the CPU, in eval mode."""
        head = build_head(self.recipe.head, self.shapes, self.label_map.num_classes)
        head.load_state_dict(self.head_state)
        return head.eval()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file at `path` atomically."""
    content = {
        "version": VERSION,
        "recipe": checkpoint.recipe.to_yaml(),
        "label_map": checkpoint.label_map.to_pbtxt(),
        "feature_spec": checkpoint.feature_spec.canonical(),
        "shapes": checkpoint.shapes.to_dict(),
        "head": checkpoint.head_state,
        "slowfast": checkpoint.slowfast_state,
        "optimizer": checkpoint.optimizer_state,
        "progress": asdict(checkpoint.progress),
    }
    # Not into the file: on a full disk torch tells of an unexpected position and hides the reason.
    data = BytesIO()
    torch.save(content, data)
    with replacing(path) as partial:
        partial.write_bytes(data.getbuffer())


def load_checkpoint(path: Path, data: bytes | None = None) -> Checkpoint:
    """Read a checkpoint to the CPU; a missing, damaged or foreign file is an error that says so.

    data: the file's content, where it was read already.
    """
    try:
        content = torch.load(path if data is None else BytesIO(data), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise NotFoundError(f"There is no checkpoint '{path}'; the run has not saved one yet.") from None
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        raise InputError(f"The checkpoint '{path}' does not read: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise InputError(f"'{path}' is not a checkpoint of version {VERSION} of this program.")
    progress = content["progress"]
    return Checkpoint(
        recipe=parse_recipe(content["recipe"], source=f"the recipe in '{path}'"),
        label_map=LabelMap.parse(content["label_map"], str(path)),
        feature_spec=FeatureSpec.from_dict(json.loads(content["feature_spec"])),
        shapes=FeatureShapes.from_dict(content["shapes"]),
        head_state=content["head"],
        slowfast_state=content.get("slowfast"),
        optimizer_state=content["optimizer"],
        progress=Progress(
            **progress
            | {
                "totals": Totals(**progress["totals"]),
                "best": None if progress["best"] is None else Best(**progress["best"]),
            }
        ),
    )
