"""What a run reads of the store: splits, label map, feature sets, detected boxes; checked before the first step."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cache.feature_store import FeatureSet
from cache.proposal_store import Proposals
from cache.split_store import PublishedSplit
from cache.store import Store
from recognizer_svc.bank import Bank
from recognizer_svc.data import Augmentation, LabelledFeatures, LabelledKeyFrame, labelled_key_frames
from recognizer_svc.heads.batch import FeatureShapes
from recognizer_svc.training.detected_boxes import detected_clips
from recognizer_svc.training.held_out import held_out_note
from recognizer_svc.training.recipe import Recipe
from recognizer_svc.training.recipe_sections import Layout, use_of
from recognizer_svc.training.repeats import clips_per_epoch, repeat_factors
from recognizer_svc.training.row_layout import counts_note, row_clips, single_people
from recognizer_svc.training.sets import open_sets, open_training_proposals
from recognizer_svc.training.splits import open_splits
from recognizer_svc.training.surroundings import open_neighbourhood, surroundings_notes
from stal_data.amounts import amount
from stal_data.errors import InputError, how_to_install
from stal_data.labels import LabelMap

if TYPE_CHECKING:
    from recognizer_svc.training.joint.inputs import JointInputs


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """train and validation share the label map, and what a head depends on of the feature spec."""

    label_map: LabelMap
    shapes: FeatureShapes
    splits: dict[str, PublishedSplit]
    """By their use: train, and validation where there is one of its own; see `use_of`."""
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

    def actors_per_epoch(self) -> tuple[list[float], list[float]]:
        """Return how many actors of an epoch perform each class [C], and of how many it is known [C], on average."""
        clips = list(zip(self.repeats_K, self.train.items, strict=True))
        positives_C = np.sum([factor * clip.targets_NC.sum(axis=0) for factor, clip in clips], axis=0)
        known_C: NDArray[np.float64] = sum(factor * self.train.known([clip]).sum(axis=0) for factor, clip in clips)
        return positives_C.tolist(), known_C.tolist()


def open_inputs(recipe: Recipe, store: Store, data_root: Path | None = None) -> RunInputs:
    """Open and check what the recipe names. data_root: the folder below which training may read frames."""
    data = recipe.data
    splits = open_splits(recipe, store)
    label_map, trained_on, checked_on = splits.label_map, splits.trained_on, splits.checked_on
    labelled = {data.datasets[key]: labelled_C.tolist() for key, labelled_C in splits.labelled.items()}
    recipe.loss.check(label_map.num_classes, labelled)
    sets = open_sets(recipe, store)
    identity = sets["train"]
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
    notes += splits.notes
    if checked_on is not None and recipe.validation.held_out is not None:
        notes.append(held_out_note(trained_on, checked_on))
    if joint is not None:
        notes += joint.notes(identity.spec)
    specs = {data.datasets[key]: sets[use_of("train", key)].spec for key in data.datasets}
    if len({spec.decoder for spec in specs.values()}) > 1:
        notes.append(f"decoders differ: {', '.join(f'{name} {spec.decoder}' for name, spec in specs.items())}")
    seen = data.streams or identity.spec.kinds
    held = [array.statistic for array in identity.spec.arrays if array.backbone in seen]
    if data.statistics is None and (pooled := list(dict.fromkeys(name for name in held if "/" in name))):
        notes.append(f"the head is not given {', '.join(pooled)}; data.statistics names pooled statistics")
    flat = [dataset for key, dataset in data.datasets.items() if use_of("train_hflip", key) not in sets]
    hflip = None if flat else sets["train_hflip"]
    if flat and data.hflip_probability > 0:
        notes.append(
            f"the store has no mirrored features of {', '.join(flat)} (precompute --view hflip), so training sees no "
            "mirrored clips"
        )
    repeats_K = repeat_factors(items, data.repeat_threshold)
    if data.repeat_threshold is not None:
        notes.append(
            f"an epoch has {amount(clips_per_epoch(repeats_K), 'clip')} of {len(items)}; those of rare classes are "
            f"drawn up to {repeats_K.max():.1f} times (data.repeat_threshold {data.repeat_threshold:g})"
        )
    around = open_neighbourhood(trained_on, recipe, people)
    if around is not None:
        notes += surroundings_notes(items, around, recipe)
    train = LabelledFeatures(
        items,
        read,
        identity=identity,
        hflip=hflip,
        additional=_additional(recipe, sets, *(("train",) if hflip is None else ("train", "train_hflip"))),
        labelled=splits.labelled,
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
            additional=_additional(recipe, sets, "train" if recipe.validation.split is None else "validation"),
            labelled=splits.labelled,
            neighbourhood=open_neighbourhood(checked_on, recipe),
            bank=None if recipe.bank is None else Bank(read, recipe.bank),
            clips=None if joint is None else joint.clips(features, [item.key for item in checked]),
        )
    return RunInputs(
        label_map=label_map,
        shapes=shapes,
        splits=splits.by_use,
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


def _additional(recipe: Recipe, sets: Mapping[str, FeatureSet], *kinds: str) -> dict[tuple[str, bool], FeatureSet]:
    """Return the sets of the additional data sets. kinds: uses, of the identity view and where wanted the mirrored."""
    found = {
        (name, bool(flip)): use_of(kind, name) for name in recipe.data.additional for flip, kind in enumerate(kinds)
    }
    return {place: sets[use] for place, use in found.items() if use in sets}


def _clips(split: PublishedSplit, label_map: LabelMap, layout: Layout) -> tuple[list[LabelledKeyFrame], list[str]]:
    items = labelled_key_frames(split, label_map)
    name = f"{split.dataset}/{split.split}"
    people, empty = sum(len(item.boxes_N4) for item in items), len(split.key_frames) - len(items)
    if layout == "key_frames":
        return items, [
            f"training on {amount(len(items), 'key frame')} of {name} with {amount(people, 'person', 'people')}; "
            f"{empty} without people skipped"
        ]
    clips = row_clips(split, label_map)
    rows, key_frames = amount(len(clips), "row"), amount(len(items), "key frame")
    told = f"training on {rows} of {key_frames} of {name}, one person and action a clip"
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
