"""Where joint training finds what it reads: frames, initial weights, cached ViT features. Needs no torch."""

from pathlib import Path

from cache.feature_store import FeatureSet, FeatureSetInfo, list_feature_sets, open_feature_set
from cache.spec import FeatureSpec
from cache.store import Store
from recognizer_svc.training.recipe import Recipe
from stal_data.data_root import dataset_below
from stal_data.dataset import Dataset
from stal_data.errors import ConflictError, InputError, NotFoundError


def open_dataset(recipe: Recipe, data_root: Path | None) -> Dataset:
    """Open the data set whose frames the recipe trains on.

    data_root: the only folder that this machine's operator lets training read; None refuses.
    """
    if data_root is None:
        raise ConflictError(
            "training.backbone is slowfast, which reads frames, and the recognizer service has no data root. Start it "
            "with 'stal-cli serve recognizer --data-root DIR', or train with 'stal-cli train --data DATASET'."
        )
    folder = recipe.data.folder or recipe.data.dataset
    dataset = dataset_below(data_root, folder)
    if dataset.name != recipe.data.dataset:
        raise InputError(
            f"data.folder '{folder}' holds the data set '{dataset.name}', but data.dataset is '{recipe.data.dataset}'; "
            "name the folder of that data set."
        )
    return dataset


def initial_weights(recipe: Recipe, store: Store) -> str:
    """Return what SlowFast starts from, as `load_backbone` takes it: `random:SEED`, or a file of the store."""
    name = recipe.training.backbone_weights
    assert name is not None  # the recipe is checked
    if name.startswith("random:"):
        return name
    return str(store.weights_file("training.backbone_weights", name))


def open_vit_set(
    store: Store,
    dataset: str,
    split: str,
    *,
    set_id: str | None = None,
    like: FeatureSpec | None = None,
    mirrored: bool = False,
) -> FeatureSet:
    """Open a set with ViT features, identity view. Sets that differ in SlowFast alone serve alike: it is not read.

    set_id: the set to take. like: only a set whose ViT features were made as those of this spec.
    mirrored: prefer a set that has its mirrored twin.
    """
    if set_id is not None:
        found = open_feature_set(store, dataset, split, set_id=set_id)
        if "vit" not in found.spec.kinds:
            raise InputError(f"data.feature_set {set_id} holds no ViT features; name one that does.")
        return found
    infos = list_feature_sets(store, dataset, split)
    fitting = [
        info
        for info in infos
        if info.spec.view == "identity"
        and "vit" in info.spec.kinds
        and (like is None or _without_slowfast(info.spec) == _without_slowfast(like))
    ]
    if not fitting:
        vit = None if like is None else like.backbone("vit")
        wanted = "" if vit is None else f" of the ViT {vit.preset} ({vit.weights})"
        raise NotFoundError(
            f"{dataset}/{split} has no features{wanted} in '{store.root}', and training.backbone takes the ViT's from "
            f"the cache; run 'stal-cli precompute DATASET --split {split} --vit WEIGHTS'."
        )
    if len({_without_slowfast(info.spec).id for info in fitting}) > 1:
        raise InputError(
            f"{dataset}/{split} has several sets of ViT features; choose one with data.feature_set: "
            f"{', '.join(info.id for info in fitting)}."
        )
    ids = {info.id for info in infos}

    def order(info: FeatureSetInfo) -> tuple[bool, bool, bool, str]:
        without_twin = mirrored and info.spec.with_view("hflip").id not in ids
        # One without SlowFast has less to read.
        return not info.complete, without_twin, "slowfast" in info.spec.kinds, info.id

    return open_feature_set(store, dataset, split, set_id=min(fitting, key=order).id)


def _without_slowfast(spec: FeatureSpec) -> FeatureSpec:
    """Return what decides the ViT features of a spec that has some."""
    return spec.of_kinds([kind for kind in spec.kinds if kind != "slowfast"])
