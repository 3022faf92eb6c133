"""Published backbone weights, as our files: names converted, everything checked, nothing dropped without a word."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from cache.backbones import backbone_of
from cache.backbones.architectures import build_without_weights
from cache.backbones.fitting import fit_tensors
from cache.backbones.registry import BackboneConfig
from cache.backbones.weights import assign_state, save_backbone

Progress = Callable[[str, int, int], None]
"""Takes what is going on, and how many of its bytes are done."""


@dataclass(frozen=True, kw_only=True)
class ImportedFile:
    """One file that was written. digest: sha256 (hex) of its tensors, as the loader states it.

    loaded: names of its tensors. zeroed: those of them that the source lacked and that are 0 now.
    ignored: tensors that were meant for it by their name and have no place in it, as name -> reason.
    """

    path: Path
    digest: str
    loaded: tuple[str, ...]
    zeroed: tuple[str, ...]
    ignored: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class PreparedBackbone:
    """A backbone whose tensors were all found, ready to be written. ignored: as in `ImportedFile`."""

    kind: str
    preset: str
    config: BackboneConfig
    model: nn.Module
    zeroed: tuple[str, ...]
    ignored: Mapping[str, str]

    def write(self, output: Path, provenance: Mapping[str, object], progress: Progress | None = None) -> ImportedFile:
        """Write the file that `load_backbone` reads, atomically."""
        digest = save_backbone(
            output,
            self.model,
            kind=self.kind,
            preset=self.preset,
            config=self.config,
            provenance=provenance,
            progress=None if progress is None else partial(progress, f"writing {output.name}"),
        )
        return ImportedFile(
            path=output,
            digest=digest,
            loaded=tuple(self.model.state_dict()),
            zeroed=self.zeroed,
            ignored=self.ignored,
        )


def prepare_backbone(
    kind: str, tensors: Mapping[str, Tensor], *, preset: str, config: BackboneConfig, source: str
) -> PreparedBackbone:
    """Find a backbone's tensors among those of a file; what is missing or does not fit is one error that lists it all.

    tensors: under published names, without the prefixes of a whole checkpoint. source: where they are from.
    """
    tensors, ignored = backbone_of(kind).architecture.from_published(tensors, config)
    model = build_without_weights(kind, config)
    fit = fit_tensors(tensors, model.state_dict(), source=source, what=f"the {kind} backbone '{preset}'")
    assign_state(model, fit.loaded, source)
    return PreparedBackbone(
        kind=kind,
        preset=preset,
        config=config,
        model=model,
        zeroed=fit.zeroed,
        ignored={**ignored, **fit.ignored},
    )
