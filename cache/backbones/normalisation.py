"""A network's own normalisation of pixels, where it is not that of the clips (`stal_data.preprocess`)."""

import torch
from torch import Tensor, nn

from stal_data.errors import InputError
from stal_data.preprocess import MEAN, STD

Colours = tuple[float, float, float]

CLIP_MEAN: Colours = (0.45, 0.45, 0.45)
CLIP_STD: Colours = (0.225, 0.225, 0.225)
IMAGENET_MEAN: Colours = (0.485, 0.456, 0.406)
IMAGENET_STD: Colours = (0.229, 0.224, 0.225)


class Renormalise(nn.Module):
    """From the normalisation of the clips to that of red, green and blue pixels in [0,1] by mean and std."""

    scale_C111: Tensor
    shift_C111: Tensor

    def __init__(self, mean: Colours, std: Colours) -> None:
        super().__init__()
        if not (len(mean) == len(std) == 3 and min(std) > 0):
            raise InputError(f"mean is {mean} and std {std}; they must be three numbers each, those of std above 0.")
        # Made for real even where parameters go to "meta": they are no part of a file.
        with torch.device("cpu"):
            scale = torch.tensor([STD / value for value in std])
            shift = torch.tensor([(MEAN - m) / s for m, s in zip(mean, std, strict=True)])
        self.register_buffer("scale_C111", scale[:, None, None, None], persistent=False)
        self.register_buffer("shift_C111", shift[:, None, None, None], persistent=False)

    def forward(self, clip_BCTHW: Tensor) -> Tensor:
        """[B, 3, T, H, W] -> the same shape."""
        return clip_BCTHW * self.scale_C111 + self.shift_C111


def renormalise(mean: Colours, std: Colours) -> nn.Module:
    """Return the module that does so; nothing changes where the network's normalisation is that of the clips."""
    return nn.Identity() if (mean, std) == (CLIP_MEAN, CLIP_STD) else Renormalise(mean, std)
