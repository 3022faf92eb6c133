"""Checkpoints: everything needed to continue a run or to score with it, as one safetensors file with a checksum."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from cache.backbones.weights import parse_tensors, write_tensors
from cache.spec import FeatureSpec
from recognizer_svc.heads import build_head
from recognizer_svc.heads.batch import FeatureShapes
from recognizer_svc.runs import zip_checkpoint
from recognizer_svc.runs.run_dir import METADATA_KEY
from recognizer_svc.training.loop import Totals
from recognizer_svc.training.recipe import Recipe, parse_recipe
from stal_data.errors import InputError, NotFoundError
from stal_data.labels import LabelMap
from stal_data.sealed import check_seal

VERSION = 2
WAY_OUT = (
    "Restore it from a copy. Without one, predict with the run's other checkpoint; or delete it, and --resume trains "
    "from the beginning."
)


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

    feature_spec: of the identity view that the head knows; of a backbone that is trained, its weights are those below.
    backbone_state: the tensors of the backbone that is trained with the head, where one is.
    unaveraged: parameters that the optimizer goes on with, by their names in the module that is trained, where those of
        head_state and backbone_state are averages.
    events: number of the run's last event before this was saved; 0 where nobody counted.
    """

    recipe: Recipe
    label_map: LabelMap
    feature_spec: FeatureSpec
    shapes: FeatureShapes
    head_state: dict[str, Tensor]
    optimizer_state: dict[str, Any]
    progress: Progress
    backbone_state: dict[str, Tensor] | None = None
    unaveraged: dict[str, Tensor] | None = None
    events: int = 0

    def build_head(self) -> nn.Module:
        """Return the trained head on the CPU, in eval mode."""
        head = build_head(self.recipe.head, self.shapes, self.label_map.num_classes)
        head.load_state_dict(self.head_state)
        return head.eval()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file at `path` atomically."""
    optimizer, tensors = _split_optimizer(checkpoint.optimizer_state)
    tensors |= {f"head.{name}": tensor for name, tensor in checkpoint.head_state.items()}
    trained = checkpoint.recipe.training.backbone
    tensors |= {f"{trained}.{name}": tensor for name, tensor in (checkpoint.backbone_state or {}).items()}
    tensors |= {f"unaveraged.{name}": tensor for name, tensor in (checkpoint.unaveraged or {}).items()}
    metadata = {
        "version": VERSION,
        "recipe": checkpoint.recipe.to_yaml(),
        "label_map": checkpoint.label_map.to_pbtxt(),
        "feature_spec": checkpoint.feature_spec.canonical(),
        "shapes": checkpoint.shapes.to_dict(),
        "optimizer": optimizer,
        "progress": asdict(checkpoint.progress),
        "events": checkpoint.events,
    }
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_tensors(path, state, key=METADATA_KEY, metadata=metadata)


def load_checkpoint(path: Path, data: bytes | None = None) -> Checkpoint:
    """Read a checkpoint to the CPU; a missing, damaged or foreign file is an error that says so.

    data: the file's content, where it was read already.
    """
    try:
        content = path.read_bytes() if data is None else data
    except FileNotFoundError:
        raise NotFoundError(f"There is no checkpoint '{path}'; the run has not saved one yet.") from None
    except OSError as error:
        raise InputError(f"The checkpoint '{path}' does not read: {error.strerror}.") from error
    if content.startswith(zip_checkpoint.SIGNATURE):
        return _checkpoint(zip_checkpoint.read(content, path), path)
    if not check_seal(content, str(path), WAY_OUT):
        raise InputError(f"'{path}' is damaged or no checkpoint: it does not begin with its checksum. {WAY_OUT}")
    try:
        header, tensors = parse_tensors(content)
        metadata = json.loads(header[METADATA_KEY])
    except (SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"'{path}' is no checkpoint of this program ({error!r}).") from None
    if metadata["version"] != VERSION:
        raise InputError(f"'{path}' is a checkpoint of version {metadata['version']}; this program reads {VERSION}.")
    return _checkpoint(
        {
            **metadata,
            "head": _part(tensors, "head."),
            "tensors": tensors,
            "optimizer": _join_optimizer(metadata["optimizer"], _part(tensors, "optimizer.")),
        },
        path,
    )


def _checkpoint(content: dict[str, Any], path: Path) -> Checkpoint:
    progress = content["progress"]
    recipe = parse_recipe(content["recipe"], source=f"the recipe in '{path}'")
    trained = recipe.training.backbone
    return Checkpoint(
        recipe=recipe,
        label_map=LabelMap.parse(content["label_map"], str(path)),
        feature_spec=FeatureSpec.from_dict(json.loads(content["feature_spec"])),
        shapes=FeatureShapes.from_dict(content["shapes"]),
        head_state=content["head"],
        backbone_state=content.get(trained) or _part(content.get("tensors", {}), f"{trained}.") or None,
        unaveraged=_part(content.get("tensors", {}), "unaveraged.") or None,
        optimizer_state=content["optimizer"],
        events=content.get("events", 0),
        progress=Progress(
            **progress
            | {
                "totals": Totals(**progress["totals"]),
                "best": None if progress["best"] is None else Best(**progress["best"]),
            }
        ),
    )


def _split_optimizer(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return an optimizer's state without its tensors, and these as PARAMETER.NAME. Both are empty without one."""
    if not state:
        return {}, {}
    tensors: dict[str, Tensor] = {}
    rest: dict[int, dict[str, Any]] = {}
    for parameter, values in state["state"].items():
        kept = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        tensors |= {f"optimizer.{parameter}.{name}": tensor for name, tensor in kept.items()}
        rest[parameter] = {name: value for name, value in values.items() if name not in kept}
    return {"state": rest, "param_groups": state["param_groups"]}, tensors


def _join_optimizer(rest: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    if not rest:
        return {}
    state = {int(parameter): dict(values) for parameter, values in rest["state"].items()}
    for place, tensor in tensors.items():
        parameter, _, name = place.partition(".")
        state[int(parameter)][name] = tensor
    return {"state": state, "param_groups": rest["param_groups"]}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
