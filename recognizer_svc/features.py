"""Which cached features a trained head may read."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from cache.backbones import backbone_of
from cache.feature_store import FeatureBatch, FeatureSet, feature_set_folders, list_feature_sets, open_feature_set
from cache.spec import BackboneSpec, FeatureSpec
from cache.store import Store
from recognizer_svc.heads.batch import FeatureShapes
from stal_data.errors import ConflictError, InputError, NotFoundError
from stal_data.keyframes import KeyFrame

ADVICE = "Precompute the split with the backbones of the training."

# A head learns from what the backbones see. Another decoder, number format or order of sums shifts features by
# little more than rounding, so a head trained on image files may score videos; it is said each time, never passed over.
# So are other statistics: all time steps serve where what is computed of them did, and a head needs only what it sees.
_TOLERATED = ("decoder", "dtype", "compiled")


class FeatureRows(Protocol):
    """What a head scores on: a feature set, or the rows that are computed of a video."""

    @property
    def spec(self) -> FeatureSpec: ...

    def row_of(self, key: KeyFrame) -> int:
        """Return the number of a key frame's row; one that is not there is an error."""

    def read(self, rows: Sequence[int], arrays: Iterable[str] | None = None) -> FeatureBatch:
        """Return rows as they are stored, [B, ...] of each array; None = all."""


def joint_advice(trained: str) -> str:
    """What to do where a head was trained together with a backbone, whose features must be those of the run."""
    return (
        f"{backbone_of(trained).title} was trained with this head: precompute the split with the weights that the run "
        f"exported, --backbone {trained}=STORE/runs/RUN/{trained}.safetensors (for the latest checkpoint "
        f"{trained}-latest.safetensors, where the run has that)."
    )


def check_fits(
    trained_on: FeatureSpec, shapes: FeatureShapes, found: FeatureSpec, *, advice: str = ADVICE
) -> tuple[str, ...]:
    """Refuse features that the head does not know; return what differs and is tolerated, as `field: trained / found`.

    Fields of a backbone that the head does not look at do not count, nor does the view.
    """
    refused, tolerated = _differences(trained_on, shapes, found)
    if refused:
        raise ConflictError(
            f"Feature set {found.id} was made by another spec than the head was trained on (trained / found): "
            f"{', '.join(refused)}. {advice}"
        )
    return tuple(tolerated)


def check_weights(run_id: str, trained_on: BackboneSpec, found: BackboneSpec, file: object) -> None:
    """Refuse weights that the features of a run's head were not computed with, before anything is computed."""
    if found.weights != trained_on.weights:
        raise ConflictError(
            f"'{file}' holds {found.kind} weights {found.weights}, but run '{run_id}' was trained on features of "
            f"{trained_on.weights}. Give the file that its features were computed with."
        )


def open_fitting(
    store: Store,
    dataset: str,
    split: str,
    *,
    trained_on: FeatureSpec,
    shapes: FeatureShapes,
    set_id: str | None = None,
    advice: str = ADVICE,
) -> FeatureSet:
    """Open the split's feature set for a head, identity view.

    set_id: the set to take if it fits; None takes the one of the trained spec, else the only one that fits.
    advice: what to do where none fits.
    """
    if set_id is not None:
        chosen = open_feature_set(store, dataset, split, set_id=set_id)
        if chosen.spec.view != "identity":
            raise InputError(
                f"Feature set {set_id} is of view '{chosen.spec.view}'; boxes belong to the identity view."
            )
        check_fits(trained_on, shapes, chosen.spec, advice=advice)
        return chosen
    # The very set first: another one that is broken is no obstacle then.
    if trained_on.id in {folder.name for folder in feature_set_folders(store, dataset, split)}:
        return open_feature_set(store, dataset, split, set_id=trained_on.id)
    specs = {info.id: info.spec for info in list_feature_sets(store, dataset, split)}
    fitting = [
        found
        for found, spec in specs.items()
        if spec.view == "identity" and not _differences(trained_on, shapes, spec)[0]
    ]
    if not fitting:
        # Where none fits this raises, and names the fields that differ.
        try:
            return open_feature_set(store, dataset, split, spec=trained_on)
        except (ConflictError, NotFoundError) as error:
            raise type(error)(f"{error} {advice}") from None
    if len(fitting) > 1:
        raise ConflictError(
            f"{dataset}/{split} has several feature sets that fit the head; choose one with --feature-set: "
            f"{', '.join(fitting)}."
        )
    return open_feature_set(store, dataset, split, set_id=fitting[0])


def open_mirrored(store: Store, features: FeatureSet) -> FeatureSet:
    """Open the set of the same spec and split in the view `hflip`."""
    try:
        return open_feature_set(store, features.dataset, features.split, spec=features.spec.with_view("hflip"))
    except ConflictError:
        raise NotFoundError(
            f"flip_average is set, but feature set {features.id} of {features.dataset}/{features.split} has no "
            f"mirrored twin. Leave it out, or run 'stal-cli precompute DATA --split {features.split} --store STORE "
            "--view hflip' with the same backbones and options."
        ) from None


def seen_kinds(trained_on: FeatureSpec, shapes: FeatureShapes) -> set[str]:
    """Return the backbones that the head looks at."""
    return {array.backbone for array in trained_on.readable if array.name in shapes.arrays}


def _differences(trained_on: FeatureSpec, shapes: FeatureShapes, found: FeatureSpec) -> tuple[list[str], list[str]]:
    """Return what differs in the backbones that the head looks at and in everything else, refused and tolerated."""
    unseen = {*trained_on.kinds, *found.kinds} - seen_kinds(trained_on, shapes)
    whole = shapes.arrays.keys() <= {array.name for array in found.readable}
    refused: list[str] = []
    tolerated: list[str] = []
    for text in trained_on.diff(found.with_view(trained_on.view)):
        name = text.partition(":")[0]
        kind, _, rest = name.partition(".")
        if kind not in unseen:
            fine = name in _TOLERATED or (rest.startswith("statistics.") and whole)
            (tolerated if fine else refused).append(text)
    return refused, tolerated
