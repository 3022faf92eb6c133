"""Refuses to train where the machines, or the checkpoint and what is there now, do not agree."""

from recognizer_svc.training.checkpoint import Checkpoint
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.inputs import RunInputs
from recognizer_svc.training.recipe import Recipe, parse_recipe
from stal_data.errors import ConflictError


def check_one_recipe(recipe: Recipe, ranks: Ranks) -> None:
    """Refuse to train where the machines of a job were given different recipes."""
    first = ranks.from_first(recipe.to_yaml().encode())
    if first is not None and first != recipe.to_yaml().encode():
        before, now = parse_recipe(first.decode()).model_dump(mode="json"), recipe.model_dump(mode="json")
        changed = ", ".join(sorted(section for section in before if before[section] != now[section]))
        raise ConflictError(
            f"The machines of this job were given different recipes, in {changed}; start it with the same command on "
            "each, apart from --node-rank."
        )


def check_same_run(checkpoint: Checkpoint, recipe: Recipe, inputs: RunInputs) -> None:
    """Refuse to go on with another recipe or other inputs. Only the length and what is logged or kept may change."""
    before, now = checkpoint.recipe.fixed_settings(), recipe.fixed_settings()
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if changed:
        listed = ", ".join(f"{name}: {before.get(name)} / {now.get(name)}" for name in changed)
        raise ConflictError(
            f"The run has a checkpoint of another recipe (checkpoint / now): {listed}. "
            "Start a new run, or resume with the old values."
        )
    spec = inputs.feature_sets["train"].spec
    if inputs.joint is not None:
        # Its weights have changed in training; the rest must be the same.
        spec = inputs.joint.spec_with(spec, checkpoint.feature_spec.backbone(recipe.training.backbone).weights)
    different = checkpoint.feature_spec.diff(spec)
    if different:
        raise ConflictError(
            f"The checkpoint was trained on features of another spec (checkpoint / now): {', '.join(different)}."
        )
    if checkpoint.label_map.digest != inputs.label_map.digest:
        raise ConflictError("The checkpoint was trained with another label map; start a new run.")
