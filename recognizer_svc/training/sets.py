"""The feature sets and proposals that a recipe trains and validates on. No torch: the service checks them, too."""

from dataclasses import replace

from cache.feature_store import FeatureSet, list_feature_sets, open_feature_set
from cache.proposal_store import Proposals, list_proposals, open_proposals
from cache.spec import FeatureSpec
from cache.store import Store
from recognizer_svc.training.joint.sources import open_cached_set
from recognizer_svc.training.recipe import Recipe
from recognizer_svc.training.recipe_sections import use_of
from stal_data.errors import ConflictError, InputError, NotFoundError


def open_sets(recipe: Recipe, store: Store) -> dict[str, FeatureSet]:
    """Open them by their use (`use_of`): train, and train_hflip and validation where they are used.

    Where a backbone is trained, only the features of the others count.
    """
    data, trained = recipe.data, recipe.training.backbone
    if trained != "none":
        flips = data.hflip_probability > 0
        identity = open_cached_set(
            store, data.dataset, data.train_split, trained, set_id=data.feature_set, mirrored=flips
        )
    else:
        identity = open_feature_set(store, data.dataset, data.train_split, set_id=data.feature_set)
    if identity.spec.view != "identity":
        raise InputError(
            f"data.feature_set {identity.id} is of view '{identity.spec.view}'; name the identity set, "
            "the mirrored one is found by itself."
        )
    _check_statistics(recipe, identity.spec)
    sets = _with_others(recipe, store, "", identity)
    for name in data.additional:
        sets |= _with_others(recipe, store, name, _open_alike(store, name, data.train_split, identity.spec))
    return sets


def _open_alike(store: Store, dataset: str, split: str, spec: FeatureSpec) -> FeatureSet:
    """Open the set of the spec, or the only one of another decoder, which shifts features by little more than rounding.

    ConflictError, which names the fields that differ, where there is none.
    """
    specs = [info.spec for info in list_feature_sets(store, dataset, split)]
    alike = [found for found in specs if replace(found, decoder=spec.decoder) == spec]
    if spec in alike or not alike:
        return open_feature_set(store, dataset, split, spec=spec)
    if len(alike) > 1:
        raise InputError(
            f"{dataset}/{split} has feature sets of several decoders, {', '.join(found.decoder for found in alike)}, "
            f"and none of {spec.decoder}; delete those that are not meant with 'stal-cli cache prune'."
        )
    return open_feature_set(store, dataset, split, spec=alike[0])


def _with_others(recipe: Recipe, store: Store, key: str, identity: FeatureSet) -> dict[str, FeatureSet]:
    """Return the identity set of one of `Data.datasets` and the sets that belong to it, by their use."""
    data, trained = recipe.data, recipe.training.backbone
    joint, dataset = trained != "none", data.datasets[key]
    sets = {use_of("train", key): identity}
    if data.hflip_probability > 0:
        try:
            sets[use_of("train_hflip", key)] = open_feature_set(
                store, dataset, data.train_split, spec=identity.spec.with_view("hflip")
            )
        except ConflictError:
            # From the cache alone the run goes on without, and says so.
            if joint:
                raise NotFoundError(
                    f"Feature set {identity.id} of {data.dataset}/{data.train_split} has no mirrored twin, and "
                    f"data.hflip_probability is {data.hflip_probability:g}: precompute with the same backbones and "
                    "--view hflip, or set data.hflip_probability=0."
                ) from None
    if recipe.validation.split is not None and dataset in recipe.validated_datasets:
        # Of exactly the same spec: a score on other features would say nothing.
        if joint:
            found = open_cached_set(store, dataset, recipe.validation.split, trained, like=identity.spec)
        else:
            found = open_feature_set(store, dataset, recipe.validation.split, spec=identity.spec)
        sets[use_of("validation", key)] = found
    return sets


def open_training_proposals(recipe: Recipe, store: Store) -> Proposals | None:
    """Open the detector's boxes of the training split; None where only annotated boxes are trained on."""
    data, split = recipe.data, f"{recipe.data.dataset}/{recipe.data.train_split}"
    if data.boxes == "ground_truth":
        return None
    names = [info.name for info in list_proposals(store, data.dataset, data.train_split)]
    if not names:
        raise NotFoundError(
            f"data.boxes is {data.boxes}, but '{store.name}' has no proposals of {split}; make them with 'stal-cli "
            f"detect DATA --split {data.train_split} --store STORE', or set data.boxes=ground_truth."
        )
    if data.proposals is None and len(names) > 1:
        raise InputError(f"{split} has proposals of {', '.join(names)}; name those to train on with data.proposals.")
    return open_proposals(store, data.dataset, data.train_split, data.proposals)


def _check_statistics(recipe: Recipe, spec: FeatureSpec) -> None:
    streams = recipe.data.streams or spec.kinds
    joint = recipe.training.backbone != "none"  # which takes statistics as they are stored
    held = {
        array.statistic
        for array, stored in spec.readable.items()
        if array.backbone in streams and (array.name == stored or not joint)
    }
    if missing := [name for name in recipe.data.statistics or () if name not in held]:
        raise InputError(
            f"data.statistics names {', '.join(missing)}, but of {', '.join(streams)} feature set {spec.id} has "
            f"{', '.join(sorted(held)) or 'nothing'}: "
            f"leave it out, or precompute with --statistics, such as --statistics slow=mean,{missing[0]}."
        )
