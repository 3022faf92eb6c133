"""An actor's region, cut out of a feature map."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from cache.roi_align import roi_align
from recognizer_svc.heads.regions import Regions


def _maximum(region_NCHW: Tensor) -> Tensor:
    return region_NCHW.amax(dim=(2, 3))


def _mean(region_NCHW: Tensor) -> Tensor:
    return region_NCHW.mean(dim=(2, 3))


POOLINGS: Mapping[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "max": (_maximum,),
    "mean": (_mean,),
    "mean_max": (_mean, _maximum),
}
"""From regions [N,C,H,W] to the parts of actors' vectors, [N,C] each."""


def actor_regions(map_BCHW: Tensor, boxes_N4: Tensor, clip_of_N: Tensor, roi_size: int) -> Tensor:
    """Return each actor's aligned region, [N, C, roi_size, roi_size].

    boxes_N4: x1,y1,x2,y2 in [0,1] of the frame; the map covers the whole frame.
    """
    rows, columns = map_BCHW.shape[-2:]
    scale = boxes_N4.new_tensor([columns, rows, columns, rows])
    rois_N5 = torch.cat([clip_of_N.to(boxes_N4.dtype)[:, None], boxes_N4 * scale], dim=1)
    return roi_align(map_BCHW, rois_N5, roi_size)


def pooled_regions(
    features: Mapping[str, Tensor], maps: Iterable[str], boxes_N4: Tensor, row_of_N: Tensor, regions: Regions
) -> Tensor:
    """Return each person's region of all maps, pooled, [N, C]. row_of_N: whose features they are; see `actor_regions`.

    One map at a time, since its regions take more memory than what is kept of them.
    """
    parts = []
    for name in maps:
        region_NCHW = actor_regions(features[name], boxes_N4, row_of_N, regions.roi_size)
        parts += [pool(region_NCHW) for pool in POOLINGS[regions.pooling]]
    return torch.cat(parts, dim=1)


def actor_vectors(map_BCHW: Tensor, boxes_N4: Tensor, clip_of_N: Tensor, roi_size: int) -> Tensor:
    """Return the maximum of each actor's region, [N, C]; see `actor_regions`."""
    return _maximum(actor_regions(map_BCHW, boxes_N4, clip_of_N, roi_size))
