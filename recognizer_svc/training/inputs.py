"""What a run reads of the store: splits, label map, feature sets, detected boxes; checked before the first step."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cache.feature_store import FeatureSet
from cache.proposal_store import Proposals
from cache.split_store import PublishedSplit, load_split
from cache.store import Store
from recognizer_svc.bank import Bank
from recognizer_svc.data import Augmentation, LabelledFeatures, LabelledKeyFrame, labelled_key_frames
from recognizer_svc.heads.batch import FeatureShapes
from recognizer_svc.training.detected_boxes import detected_clips
from recognizer_svc.training.held_out import divide, held_out_note
from recognizer_svc.training.recipe import Recipe
from recognizer_svc.training.recipe_sections import Layout
from recognizer_svc.training.repeats import clips_per_epoch, repeat_factors
from recognizer_svc.training.row_layout import counts_note, row_clips, single_people
from recognizer_svc.training.sets import open_sets, open_training_proposals
from recognizer_svc.training.surroundings import open_neighbourhood, surroundings_notes
from stal_data.errors import InputError, how_to_install
from stal_data.labels import LabelMap

if TYPE_CHECKING:
    from recognizer_svc.training.joint.inputs import JointInputs


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """train and validation share the label map and the feature spec."""

    label_map: LabelMap
    shapes: FeatureShapes
    splits: dict[str, PublishedSplit]
    """By their use: train, and validation where there is one of its own."""
    feature_sets: dict[str, FeatureSet]
    """By their use: train, and train_hflip and validation where they are used. Held-out videos are in train's."""
    train: LabelledFeatures
    repeats_K: NDArray[np.float64]
    """How often each clip of `train` is drawn in an epoch, on average."""
    validation: LabelledFeatures | None
    proposals: Proposals | None = None
    """Where detected boxes are trained on."""
    joint: "JointInputs | None" = None
    """Where a backbone is trained with the head."""
    notes: tuple[str, ...] = field(default=())
    """What the user should know before the run starts."""

    def actors_per_epoch(self) -> tuple[list[float], float]:
        """Return how many actors of an epoch perform each class [C], and how many there are, on average."""
        clips = list(zip(self.repeats_K, self.train.items, strict=True))
        positives_C = np.sum([factor * clip.targets_NC.sum(axis=0) for factor, clip in clips], axis=0)
        return positives_C.tolist(), float(sum(factor * len(clip.targets_NC) for factor, clip in clips))


def open_inputs(recipe: Recipe, store: Store, data_root: Path | None = None) -> RunInputs:
    """Open and check what the recipe names. data_root: the folder below which training may read frames."""
    data = recipe.data
    split = load_split(store, data.dataset, data.train_split)
    if split.label_map is None:
        raise InputError(f"{data.dataset}/{data.train_split} has no label map, so there is nothing to train for.")
    label_map = split.label_map
    recipe.loss.check(label_map.num_classes)
    splits = {"train": split}
    trained_on, checked_on = split, None
    if recipe.validation.held_out is not None:
        trained_on, checked_on = divide(split, recipe.validation.held_out)
    elif recipe.validation.split is not None:
        checked_on = splits["validation"] = _validation_split(recipe, store, label_map)
    sets = open_sets(recipe, store)
    identity, hflip = sets["train"], sets.get("train_hflip")
    joint = None
    if recipe.training.backbone == "none":
        shapes = cached_shapes(recipe, identity)
    else:
        joint = _open_joint(recipe, store, data_root)
        shapes = joint.shapes(identity)
    read = shapes if joint is None else joint.cached_shapes(identity)
    items, notes = _clips(trained_on, label_map, data.layout)
    proposals, people = open_training_proposals(recipe, store), None
    if proposals is not None:
        detected = detected_clips(trained_on, label_map, proposals, recipe.data)
        if data.boxes == "both":
            items, notes = [*items, *detected.clips], [*notes, f"also {detected.note}"]
        else:
            items, notes, people = detected.clips, [detected.note], detected.people
    if checked_on is not None and recipe.validation.held_out is not None:
        notes.append(held_out_note(split, checked_on))
    if joint is not None:
        notes += joint.notes(identity.spec)
    if hflip is None and data.hflip_probability > 0:
        notes.append("the store has no mirrored features (precompute --view hflip), so training sees no mirrored clips")
    repeats_K = repeat_factors(items, data.repeat_threshold)
    if data.repeat_threshold is not None:
        notes.append(
            f"an epoch has {clips_per_epoch(repeats_K)} clips of {len(items)}; those of rare classes are drawn up to "
            f"{repeats_K.max():.1f} times (data.repeat_threshold {data.repeat_threshold:g})"
        )
    around = open_neighbourhood(trained_on, recipe, people)
    if around is not None:
        notes += surroundings_notes(items, around, recipe)
    train = LabelledFeatures(
        items,
        read,
        identity=identity,
        hflip=hflip,
        neighbourhood=around,
        bank=None if recipe.bank is None else Bank(read, recipe.bank),
        augmentation=Augmentation(hflip_probability=data.hflip_probability, box_jitter=data.box_jitter),
        seed=recipe.training.seed,
        clips=None if joint is None else joint.clips(identity, [item.key for item in items]),
    )
    validation = None
    if checked_on is not None:
        checked = labelled_key_frames(checked_on, label_map)
        if data.layout == "rows":
            # What such a head knows; each person once, so that the mAP means the same in both layouts.
            checked = single_people(checked)
        features = sets.get("validation", identity)
        validation = LabelledFeatures(
            checked,
            read,
            identity=features,
            neighbourhood=open_neighbourhood(checked_on, recipe),
            bank=None if recipe.bank is None else Bank(read, recipe.bank),
            clips=None if joint is None else joint.clips(features, [item.key for item in checked]),
        )
    return RunInputs(
        label_map=label_map,
        shapes=shapes,
        splits=splits,
        feature_sets=sets,
        train=train,
        repeats_K=repeats_K,
        validation=validation,
        proposals=proposals,
        joint=joint,
        notes=tuple(notes),
    )


def cached_shapes(recipe: Recipe, features: FeatureSet) -> FeatureShapes:
    """Return what the recipe's head is given of a feature set."""
    data = recipe.data
    return FeatureShapes.of(
        features.spec,
        features.shapes,
        data.streams,
        recipe.statistics,
        data.neighbours,
        recipe.bank,
        computed=data.statistics is not None,
    )


def _clips(split: PublishedSplit, label_map: LabelMap, layout: Layout) -> tuple[list[LabelledKeyFrame], list[str]]:
    """What is trained on, and what to say about it."""
    items = labelled_key_frames(split, label_map)
    name = f"{split.dataset}/{split.split}"
    people, empty = sum(len(item.boxes_N4) for item in items), len(split.key_frames) - len(items)
    if layout == "key_frames":
        return items, [
            f"training on {len(items)} key frames of {name} with {people} people; {empty} without people skipped"
        ]
    clips = row_clips(split, label_map)
    told = f"training on {len(clips)} rows of {len(items)} key frames of {name}, one person and action a clip"
    return clips, [note for note in (told, counts_note(split)) if note]


def _open_joint(recipe: Recipe, store: Store, data_root: Path | None) -> "JointInputs":
    try:
        from recognizer_svc.training.joint.inputs import JointInputs
    except ModuleNotFoundError as error:
        raise InputError(
            f"training.backbone is {recipe.training.backbone}, but this machine lacks '{error.name}', which decodes or "
            "computes clips; "
            f"{how_to_install('precompute')}"
        ) from None
    return JointInputs.open(recipe, store, data_root)


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
