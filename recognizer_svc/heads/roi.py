"""One vector per actor, cut out of a feature map."""

import torch
from torch import Tensor

from cache.roi_align import roi_align


def actor_vectors(map_BCHW: Tensor, boxes_N4: Tensor, clip_of_N: Tensor, roi_size: int) -> Tensor:
    """Return the maximum of each actor's roi_size x roi_size aligned region, [N, C].

    boxes_N4: x1,y1,x2,y2 in [0,1] of the frame; the map covers the whole frame.
    """
    rows, columns = map_BCHW.shape[-2:]
    scale = boxes_N4.new_tensor([columns, rows, columns, rows])
    rois_N5 = torch.cat([clip_of_N.to(boxes_N4.dtype)[:, None], boxes_N4 * scale], dim=1)
    return roi_align(map_BCHW, rois_N5, roi_size).amax(dim=(2, 3))
