"""Where joint training finds what it reads: frames, initial weights, cached features. Needs no torch."""

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
            f"training.backbone is {recipe.training.backbone}, which reads frames, and the recognizer service has "
            "no data root. Start it with 'stal-cli serve recognizer --data-root DIR', or train with 'stal-cli train "
            "--data DATASET'."
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
    """Return what the backbone starts from, as `load_backbone` takes it: `random:SEED`, or a file of the store."""
    name = recipe.training.backbone_weights
    assert name is not None  # the recipe is checked
    if name.startswith("random:"):
        return name
    return str(store.weights_file("training.backbone_weights", name))


def open_cached_set(
    store: Store,
    dataset: str,
    split: str,
    trained: str,
    *,
    set_id: str | None = None,
    like: FeatureSpec | None = None,
    mirrored: bool = False,
) -> FeatureSet:
    """Open a set with features of other backbones than the trained one, identity view.

    Sets that differ in the trained backbone alone serve alike: it is not read.

    set_id: the set to take. like: only a set whose other features were made as those of this spec.
    mirrored: prefer a set that has its mirrored twin.
    """

    def others(spec: FeatureSpec) -> FeatureSpec | None:
        kinds = [kind for kind in spec.kinds if kind != trained]
        return spec.of_kinds(kinds) if kinds else None

    if set_id is not None:
        found = open_feature_set(store, dataset, split, set_id=set_id)
        if others(found.spec) is None:
            raise InputError(
                f"data.feature_set {set_id} holds no features but those of {trained}, which training.backbone trains; "
                "name one that does."
            )
        return found
    infos = list_feature_sets(store, dataset, split)
    fitting = [
        (info, cached)
        for info in infos
        if info.spec.view == "identity"
        and (cached := others(info.spec)) is not None
        and (like is None or cached == others(like))
    ]
    if not fitting:
        known = None if like is None else others(like)
        made = [f"{item.kind} {item.preset} ({item.weights})" for item in known.backbones] if known else []
        wanted = f"of {', '.join(made)}" if made else f"of a backbone beside {trained}"
        raise NotFoundError(
            f"{dataset}/{split} has no features {wanted} in '{store.root}'. training.backbone trains {trained} and "
            f"takes the others from the cache; run 'stal-cli precompute DATASET --split {split} --store STORE' with "
            "them."
        )
    if len({cached.id for _, cached in fitting}) > 1:
        raise InputError(
            f"{dataset}/{split} has several sets of features beside those of {trained}; choose one with "
            f"data.feature_set: {', '.join(info.id for info, _ in fitting)}."
        )
    ids = {info.id for info in infos}

    def order(info: FeatureSetInfo) -> tuple[bool, bool, bool, str]:
        without_twin = mirrored and info.spec.with_view("hflip").id not in ids
        # One without the trained backbone has less to read.
        return not info.complete, without_twin, trained in info.spec.kinds, info.id

    return open_feature_set(store, dataset, split, set_id=min((info for info, _ in fitting), key=order).id)
