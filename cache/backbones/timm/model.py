"""An image model of timm on a few frames of a clip: its last feature map, one time step a frame.

B clips, C channels, T frames, H, W rows and columns of the map.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cache.backbones.normalisation import Renormalise
from cache.statistics import MapShape
from stal_data.errors import InputError, NotFoundError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class TimmConfig:
    """model: timm's name. height, width: the frame that it takes, in pixels. mean, std: its own, for pixels in [0,1].

    frames: how many frames it sees, spread evenly over the clip's num_frames.
    norm: whether its final norm is applied to the map, which not every model offers.
    channels, rows, columns: of its last map.
    """

    model: str
    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    norm: bool
    channels: int
    rows: int
    columns: int
    num_frames: int = 32
    frames: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.frames <= self.num_frames:
            raise InputError(f"frames is {self.frames}; it must be from 1 to num_frames, which is {self.num_frames}")

    @property
    def maps(self) -> dict[str, MapShape]:
        """Channels, time steps, rows and columns of each map."""
        return {"timm": (self.channels, self.frames, self.rows, self.columns)}


class FramewiseModel(nn.Module):
    """The model without its classifier; its tensors have timm's names, after `model.`."""

    def __init__(self, config: TimmConfig) -> None:
        import timm

        check_model(config.model)
        super().__init__()
        self.config = config
        # Made for real even where parameters go to "meta": tables that are no part of a file would have no values.
        with torch.device("cpu"):
            self.model = timm.create_model(config.model, pretrained=False, num_classes=0)
        self.renormalise = Renormalise(config.mean, config.std)

    def forward(self, clip_BCTHW: Tensor) -> dict[str, Tensor]:
        """Return the map `timm`, [B, channels, frames, rows, columns].

        clip_BCTHW: [B, 3, num_frames, height, width], normalised.
        """
        frames_BCTHW = clip_BCTHW[:, :, frame_indices(clip_BCTHW.shape[2], self.config.frames)]
        frames_FCHW = self.renormalise(frames_BCTHW).transpose(1, 2).flatten(0, 1)
        map_FCHW = last_map(self.model, frames_FCHW, norm=self.config.norm)
        map_BTCHW = map_FCHW.reshape(len(clip_BCTHW), -1, *map_FCHW.shape[1:])
        return {"timm": map_BTCHW.transpose(1, 2)}


def check_model(name: str) -> None:
    """Refuse a name that timm's own list lacks: of others, such as hf-hub:NAME, timm asks the network or the disk."""
    import timm

    if not timm.is_model(name):
        raise NotFoundError(f"timm {timm.__version__} has no model '{name}'. {did_you_mean(name, timm.list_models())}")


def frame_indices(num_frames: int, count: int) -> list[int]:
    """Return `count` frames of a clip, each in the middle of an equal part of it."""
    return [(2 * index + 1) * num_frames // (2 * count) for index in range(count)]


def last_map(model: nn.Module, frames_FCHW: Tensor, *, norm: bool) -> Tensor:
    """Return the model's last feature map of each frame, [F, C, H, W]."""
    found: list[Tensor] = model.forward_intermediates(frames_FCHW, indices=1, norm=norm, intermediates_only=True)  # type: ignore[operator]
    return found[-1]
