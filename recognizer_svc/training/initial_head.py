"""The weights that a head starts from, where the recipe names a head file of the store."""

from dataclasses import dataclass

from torch import Tensor

from cache.backbones.weights import weights_digest
from cache.store import Store
from recognizer_svc.heads import HeadConfig, head_of
from recognizer_svc.heads.batch import FeatureShapes
from recognizer_svc.training.head_file import HeadInfo, load_head_file
from recognizer_svc.training.inputs import RunInputs
from recognizer_svc.training.recipe import Recipe
from stal_data.amounts import amount
from stal_data.errors import ConflictError, InputError


@dataclass(frozen=True, kw_only=True)
class InitialHead:
    """state: the head's tensors, without its classifier if that stays new. digest: of the file's tensors.

    notes: what the user should know before the run starts.
    """

    state: dict[str, Tensor]
    digest: str
    notes: tuple[str, ...]


def load_initial_head(recipe: Recipe, store: Store, inputs: RunInputs) -> InitialHead | None:
    """Return what `training.init_head` names, checked against the run; None where the recipe names nothing."""
    name = recipe.training.init_head
    if name is None:
        return None
    info, state = load_head_file(store.weights_file("training.init_head", name))
    where = f"training.init_head '{name}'"
    check_head_fits(where, info, recipe.head, inputs.shapes)
    notes = [f"the head starts from weights/{name}"]
    digest = weights_digest(state)
    classes = inputs.label_map.num_classes
    if recipe.training.new_classifier:
        for tensor in head_of(info.section.kind).classifier:
            state.pop(tensor, None)
        notes.append(
            f"its classifier ({amount(info.num_classes, 'class')}) is left out; one for {amount(classes, 'class')} "
            "starts anew"
        )
    elif info.num_classes != classes:
        raise InputError(
            f"{where} has {info.num_classes} classes and the label map {classes}. Train with the label map it was made "
            "for, or let the last layer start anew with training.new_classifier=true."
        )
    other = other_backbones(info, _weights_of(inputs))
    if other:
        notes.append(f"the head was trained on features of other backbone weights (head / here): {', '.join(other)}")
    return InitialHead(state=state, digest=digest, notes=tuple(notes))


def check_head_fits(where: str, info: HeadInfo, section: HeadConfig, shapes: FeatureShapes) -> None:
    """Refuse a head file whose tensors are not of this head on these features. where: the file, for the error."""
    found, wanted = info.section.model_dump(exclude={"dropout"}), section.model_dump(exclude={"dropout"})
    different = [
        f"head.{name} {found.get(name)} / {wanted.get(name)}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if different:
        raise ConflictError(f"{where} is another head than the recipe's (file / recipe): {', '.join(different)}.")
    if info.shapes.neighbours != shapes.neighbours:
        raise ConflictError(
            f"{where} sees {info.shapes.neighbours} key frames before and after a clip's, and the recipe wants "
            f"{shapes.neighbours}: set data.neighbours={info.shapes.neighbours}."
        )
    if (banked := bool(info.shapes.bank_channels)) != bool(shapes.bank_channels):
        raise ConflictError(
            f"{where} has {'a' if banked else 'no'} feature bank, and the recipe wants {'none' if banked else 'one'}: "
            f"set data.bank_s{' to the seconds of its training' if banked else '=0'}."
        )
    if info.shapes != shapes:
        before, now = info.shapes.arrays, shapes.arrays
        different = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
        listed = ", ".join(f"{name} {before.get(name)} / {now.get(name)}" for name in different)
        raise ConflictError(
            f"{where} is for features of another shape (file / here): {listed}. Precompute with the backbones that it "
            "was trained on."
        )


def other_backbones(info: HeadInfo, weights: dict[str, str]) -> list[str]:
    """Return `kind: weights of the head / weights here` for each backbone that is another. weights: by kind."""
    return [
        f"{kind}: {known[:23]} / {weights[kind][:23]}"
        for kind, known in info.backbones.items()
        if kind in weights and weights[kind] != known
    ]


def _weights_of(inputs: RunInputs) -> dict[str, str]:
    spec = inputs.feature_sets["train"].spec
    found = {item.kind: item.weights for item in spec.backbones}
    if inputs.joint is not None:
        found[inputs.joint.backbone.spec.kind] = inputs.joint.backbone.spec.weights
    return found
