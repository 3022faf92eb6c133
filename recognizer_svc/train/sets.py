"""The feature sets that a recipe trains and validates on. Needs no torch: the service checks them, too."""

from cache.feature_store import FeatureSet, open_feature_set
from cache.spec import FeatureSpec, View
from cache.store import Store
from recognizer_svc.joint.sources import open_vit_set
from recognizer_svc.recipe import Recipe
from stal_data.errors import ConflictError, InputError, NotFoundError


def open_sets(recipe: Recipe, store: Store) -> dict[str, FeatureSet]:
    """Open them by their use: train, and train_hflip and validation where they are used.

    Where SlowFast is trained, only their ViT features count.
    """
    data, joint = recipe.data, recipe.training.backbone != "none"
    find = open_vit_set if joint else open_feature_set
    identity = find(store, data.dataset, data.train_split, set_id=data.feature_set)
    if identity.spec.view != "identity":
        raise InputError(
            f"data.feature_set {identity.id} is of view '{identity.spec.view}'; name the identity set, "
            "the mirrored one is found by itself."
        )
    sets = {"train": identity}
    if data.hflip_probability > 0:
        try:
            sets["train_hflip"] = _matching(recipe, store, data.train_split, identity.spec, "hflip")
        except ConflictError:
            pass  # the run says so
        except NotFoundError as error:
            raise NotFoundError(f"{error} Without mirrored clips: data.hflip_probability=0.") from None
    if recipe.validation.split is not None:
        # Of exactly the same spec: a score on other features would say nothing.
        sets["validation"] = _matching(recipe, store, recipe.validation.split, identity.spec, "identity")
    return sets


def _matching(recipe: Recipe, store: Store, split: str, spec: FeatureSpec, view: View) -> FeatureSet:
    if recipe.training.backbone != "none":
        return open_vit_set(store, recipe.data.dataset, split, view=view, like=spec)
    return open_feature_set(store, recipe.data.dataset, split, spec=spec.with_view(view))
