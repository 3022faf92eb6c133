"""What joint training opens besides the cache: the backbone that is trained, and the frames it sees."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from cache.backbones import backbone_of
from cache.backbones.load import LoadedBackbone, load_backbone
from cache.backbones.weights import weights_digest
from cache.feature_store import FeatureSet
from cache.precompute.extract import row_shapes
from cache.spec import FeatureSpec
from cache.statistics import StatisticName
from cache.store import Store
from recognizer_svc.heads.batch import FeatureShapes
from recognizer_svc.training.joint.clips import LiveClips
from recognizer_svc.training.joint.sources import initial_weights, open_dataset
from recognizer_svc.training.recipe import Recipe
from stal_data.keyframes import KeyFrame
from stal_data.media import Media


@dataclass(frozen=True, kw_only=True)
class JointInputs:
    """backbone: its model is trained in place, its spec says what it started from."""

    backbone: LoadedBackbone
    media: Media
    folder: Path
    statistics: tuple[StatisticName, ...]
    """Of the maps that the head sees."""

    @classmethod
    def open(cls, recipe: Recipe, store: Store, data_root: Path | None) -> "JointInputs":
        dataset = open_dataset(recipe, data_root)
        backbone = load_backbone(
            recipe.training.backbone,
            weights=initial_weights(recipe, store),
            preset=recipe.training.backbone_preset,
        )
        return cls(backbone=backbone, media=dataset.media, folder=dataset.root, statistics=recipe.statistics)

    def cached_shapes(self, features: FeatureSet) -> FeatureShapes:
        """Shapes of what is read from the cache."""
        kinds = [kind for kind in features.spec.kinds if kind != self.backbone.spec.kind]
        return FeatureShapes.of(features.spec, features.shapes, kinds, self.statistics)

    def shapes(self, features: FeatureSet) -> FeatureShapes:
        """Shapes of what the head is fed: the trained backbone's by its architecture, the others' as cached."""
        live = replace(features.spec, backbones=(self.backbone.spec,))
        return FeatureShapes.of(live, row_shapes(live), statistics=self.statistics).beside(self.cached_shapes(features))

    def clips(self, features: FeatureSet, keys: Iterable[KeyFrame]) -> LiveClips:
        """Return the clips behind these rows of a feature set."""
        spec = self.backbone.spec
        return LiveClips(self.media, features, keys, height=spec.height, width=spec.width)

    def trained_spec(self, cached: FeatureSpec) -> FeatureSpec:
        """Return the spec of features made with the backbone as it is now, beside the cached ones."""
        return self.spec_with(cached, f"sha256:{weights_digest(self.backbone.model.state_dict())}")

    def spec_with(self, cached: FeatureSpec, weights: str) -> FeatureSpec:
        """Return the spec of features made with these weights of the backbone."""
        return cached.with_backbone(replace(self.backbone.spec, weights=weights, trained=True))

    def notes(self, cached: FeatureSpec) -> tuple[str, ...]:
        """What the user should know before the run starts."""
        spec = self.backbone.spec
        notes = [
            f"{backbone_of(spec.kind).title} ({spec.preset}, from {spec.weights}) is trained with the head on the "
            f"frames of {self.folder}"
        ]
        if self.media.decoder != cached.decoder:
            notes.append(f"frames are decoded by {self.media.decoder}; for the cached features it was {cached.decoder}")
        return tuple(notes)
