"""The backbones that a service holds, and features computed with them. Lives in the scoring thread. Imports torch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cache.backbones.load import LoadedBackbone
from cache.feature_store.values import checked_cast
from cache.precompute.clips import Frame, Size
from cache.precompute.extract import Extractor, input_sizes, row_shapes
from cache.spec import BackboneSpec, FeatureSpec
from recognizer_svc.features import joint_advice, seen_kinds
from recognizer_svc.scoring.models import LoadedModel
from recognizer_svc.video.key_frames import Row
from stal_data.errors import ConflictError, StalError
from stal_data.keyframes import KeyFrame

BATCH_CLIPS = 8
"""Computed at once, as by precompute."""

Clip = tuple[KeyFrame, Sequence[Frame]]
"""A key frame and the frames of its clip, each at the sizes of the backbones."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSource:
    """Computes the features of a spec. sizes: of the frames, ascending. shapes: of a row of each array."""

    spec: FeatureSpec
    sizes: tuple[Size, ...]
    shapes: Mapping[str, tuple[int, ...]]
    extractor: Extractor

    def rows(self, clips: Sequence[Clip]) -> list[Row | StalError]:
        """Return the features of each clip as a feature set stores them, or what is wrong with them."""
        batch = {
            size: torch.from_numpy(np.stack([np.stack([frame[size] for frame in frames]) for _, frames in clips]))
            for size in self.sizes
        }
        outputs = self.extractor.launch(batch, ("identity",))
        arrays = outputs.arrays()["identity"]
        if outputs.finite():
            return [{name: values[place].copy() for name, values in arrays.items()} for place in range(len(clips))]
        # Somebody's values do not fit; the others' are as good as ever.
        stored = (item for array in self.spec.arrays for item in array.stored(self.spec.dtype).items())
        dtypes = {name: np.dtype(dtype) for name, dtype in stored}
        found: list[Row | StalError] = []
        for place, (key, _) in enumerate(clips):
            one = slice(place, place + 1)
            try:
                found.append({name: checked_cast(name, arrays[name][one], dtypes[name], [key])[0] for name in arrays})
            except StalError as error:
                found.append(error)
        return found


class Extraction:
    """Backbones on a device, each once."""

    def __init__(self, loaders: Iterable[Callable[[], LoadedBackbone]], device: torch.device) -> None:
        self._device = device
        self._held: list[LoadedBackbone] = []
        for load in loaders:
            loaded = load()
            if self._find(loaded.spec) is None:
                loaded.model.to(device)
                self._held.append(loaded)
        self._sources: dict[str, FeatureSource] = {}

    @property
    def specs(self) -> tuple[BackboneSpec, ...]:
        return tuple(held.spec for held in self._held)

    def source(self, model: LoadedModel) -> FeatureSource:
        """Return what computes the features that a head looks at, in the number formats of its training."""
        checkpoint = model.predictor.checkpoint
        trained = checkpoint.feature_spec
        # Compiled code takes minutes to make; without it the same sums are added in another order.
        spec = replace(trained.of_kinds(seen_kinds(trained, checkpoint.shapes)), compiled=False, view="identity")
        if spec.id not in self._sources:
            shapes = row_shapes(spec)  # refuses clips of another length
            backbones = [self._backbone(model, item) for item in spec.backbones]
            extractor = Extractor(
                backbones, self._device, dtype=spec.dtype, autocast=spec.autocast, batch_size=BATCH_CLIPS
            )
            self._sources[spec.id] = FeatureSource(
                spec=spec, sizes=tuple(sorted(input_sizes(spec))), shapes=shapes, extractor=extractor
            )
        return self._sources[spec.id]

    def _backbone(self, model: LoadedModel, wanted: BackboneSpec) -> LoadedBackbone:
        found = self._find(wanted)
        if found is not None:
            return LoadedBackbone(model=found.model, spec=wanted)  # the head's own choice of statistics
        checkpoint = model.predictor.checkpoint
        trained = checkpoint.backbone_state is not None and checkpoint.recipe.training.backbone == wanted.kind
        held = ", ".join(f"{spec.kind} {spec.preset} ({spec.weights})" for spec in self.specs)
        advice = (
            joint_advice(wanted.kind) if trained else "Packed models have them, where they were packed with weights."
        )
        raise ConflictError(
            f"Run '{model.info.run_id}' sees the features of {wanted.kind} {wanted.preset} ({wanted.weights}), which "
            f"this service does not hold; it holds {held or 'no backbones'}. Start it with --backbone "
            f"{wanted.kind}:{wanted.preset}=FILE, or with --model of a packed model that holds these weights. {advice}"
        )

    def _find(self, wanted: BackboneSpec) -> LoadedBackbone | None:
        """Return the one with the same tensors; what is kept of its maps may differ."""

        def identity(spec: BackboneSpec) -> tuple[object, ...]:
            return spec.kind, spec.weights, spec.config, spec.height, spec.width

        return next((held for held in self._held if identity(held.spec) == identity(wanted)), None)
