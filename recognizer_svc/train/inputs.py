"""What a run reads from the store: splits, label map, feature sets; all checked before the first step."""

from dataclasses import dataclass, field

from cache.feature_store import FeatureSet, open_feature_set
from cache.split_store import PublishedSplit, load_split
from cache.store import Store
from recognizer_svc.data import Augmentation, LabelledFeatures, labelled_key_frames
from recognizer_svc.heads.batch import FeatureShapes
from recognizer_svc.losses import check_loss
from recognizer_svc.recipe import Recipe
from stal_data.errors import ConflictError, InputError
from stal_data.labels import LabelMap


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """train and validation share the label map and the feature spec."""

    label_map: LabelMap
    shapes: FeatureShapes
    splits: dict[str, PublishedSplit]
    """By their use: train, and validation where there is one."""
    feature_sets: dict[str, FeatureSet]
    """By their use: train, and train_hflip and validation where they are used."""
    train: LabelledFeatures
    validation: LabelledFeatures | None
    notes: tuple[str, ...] = field(default=())
    """What the user should know before the run starts."""


def open_inputs(recipe: Recipe, store: Store) -> RunInputs:
    """Open and check what the recipe names."""
    data = recipe.data
    split = load_split(store, data.dataset, data.train_split)
    if split.label_map is None:
        raise InputError(f"{data.dataset}/{data.train_split} has no label map, so there is nothing to train for.")
    label_map = split.label_map
    check_loss(recipe.loss, label_map.num_classes)
    identity = open_feature_set(store, data.dataset, data.train_split, set_id=data.feature_set)
    if identity.spec.view != "identity":
        raise InputError(
            f"data.feature_set {identity.id} is of view '{identity.spec.view}'; name the identity set, "
            "the mirrored one is found by itself."
        )
    shapes = FeatureShapes.of(identity.spec, identity.shapes, data.streams)
    items = labelled_key_frames(split, label_map)
    people, empty = sum(len(item.boxes_N4) for item in items), len(split.key_frames) - len(items)
    notes = [
        f"training on {len(items)} key frames of {data.dataset}/{data.train_split} with {people} people; "
        f"{empty} without people skipped"
    ]
    hflip = _mirrored(recipe, store, identity)
    if hflip is None and data.hflip_probability > 0:
        notes.append("the store has no mirrored features (precompute --view hflip), so training sees no mirrored clips")
    train = LabelledFeatures(
        items,
        shapes,
        identity=identity,
        hflip=hflip,
        augmentation=Augmentation(hflip_probability=data.hflip_probability, box_jitter=data.box_jitter),
        seed=recipe.training.seed,
    )
    splits, sets = {"train": split}, {"train": identity} | ({} if hflip is None else {"train_hflip": hflip})
    validation = None
    if recipe.validation.split is not None:
        splits["validation"] = _validation_split(recipe, store, label_map)
        # Of exactly the same spec: a score on other features would say nothing.
        sets["validation"] = open_feature_set(store, data.dataset, recipe.validation.split, spec=identity.spec)
        validation = LabelledFeatures(
            labelled_key_frames(splits["validation"], label_map), shapes, identity=sets["validation"]
        )
    return RunInputs(
        label_map=label_map,
        shapes=shapes,
        splits=splits,
        feature_sets=sets,
        train=train,
        validation=validation,
        notes=tuple(notes),
    )


def _mirrored(recipe: Recipe, store: Store, identity: FeatureSet) -> FeatureSet | None:
    """The mirrored set of the same spec, where it exists and is wanted."""
    data = recipe.data
    if data.hflip_probability == 0:
        return None
    try:
        return open_feature_set(store, data.dataset, data.train_split, spec=identity.spec.with_view("hflip"))
    except ConflictError:
        return None


def _validation_split(recipe: Recipe, store: Store, label_map: LabelMap) -> PublishedSplit:
    name = recipe.validation.split
    assert name is not None
    split = load_split(store, recipe.data.dataset, name)
    if split.label_map is not None and split.label_map.digest != label_map.digest:
        raise InputError(
            f"The label maps of {recipe.data.dataset}/{recipe.data.train_split} and {recipe.data.dataset}/{name} "
            "differ; publish both splits with one label map by running precompute on both again."
        )
    return split
