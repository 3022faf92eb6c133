"""What another package may offer: a head, a backbone and an annotation format. Tests install it without the product."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from cache.backbones.registry import Architecture, Backbone, preset_from
from recognizer_svc.heads.batch import FeatureShapes, HeadBatch
from recognizer_svc.heads.registry import Head, HeadConfig
from stal_data.formats.fields import Row, integer, parse_box, parse_key
from stal_data.formats.registry import AnnotationFormat


class CountingConfig(HeadConfig):
    kind: Literal["counting"] = "counting"
    step: float = 0.5


class CountingHead(nn.Module):
    """Scores everybody by the mean of the clip's first map, times a number that is learnt."""

    def __init__(self, config: CountingConfig, shapes: FeatureShapes, num_classes: int) -> None:
        super().__init__()
        self.map = next(iter(shapes.maps))
        self.step = config.step
        self.fc = nn.Linear(1, num_classes)

    def forward(self, batch: HeadBatch) -> Tensor:
        mean_B1 = batch.features[self.map].mean(dim=(1, 2, 3))[:, None] * self.step
        logits_NC: Tensor = self.fc(mean_B1[batch.clip_of_N])
        return logits_NC


COUNTING = Head(config=CountingConfig, build=CountingHead, classifier=("fc.weight", "fc.bias"))


@dataclass(frozen=True, kw_only=True)
class BlocksConfig:
    num_frames: int = 32
    height: int = 16
    width: int = 24

    @property
    def maps(self) -> dict[str, tuple[int, int, int, int]]:
        return {"blocks": (3, 32, self.height // 4, self.width // 4)}


class Blocks(nn.Module):
    """The mean colour of blocks of 4x4 pixels, scaled by one number."""

    def __init__(self, config: BlocksConfig) -> None:
        super().__init__()
        self.scale = nn.Conv3d(3, 3, 1, groups=3)
        self.pool = nn.AvgPool3d((1, 4, 4))

    def forward(self, clip_BCTHW: Tensor) -> dict[str, Tensor]:
        return {"blocks": self.pool(self.scale(clip_BCTHW))}


BLOCKS = Backbone(
    name="blocks",
    title="the blocks",
    maps={"blocks": ("mean",)},
    load=lambda: Architecture(
        config=BlocksConfig,
        build=Blocks,
        preset=preset_from({"four": BlocksConfig()}, "blocks"),
        default_preset="four",
        from_published=lambda tensors, _config: (tensors, {}),
    ),
)


def _parse(fields: Sequence[str], line: int) -> Row:
    label, video, time, *box = fields
    key = parse_key(video, time)
    numbers = parse_box(box)
    time_s = key.time_ms / 1000
    return Row(line=line, key=key, time_s=time_s, window=None, box=numbers, label=integer("label", label), person=-1)


LABEL_FIRST = AnnotationFormat(name="label_first", parse=_parse, first_label=1, within_seconds=True)
