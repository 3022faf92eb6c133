"""RoIAlign by torchvision's compiled operator, without `import torchvision`.

That import takes longer than torch's own, for parts that nothing here uses.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def roi_align(map_BCHW: Tensor, rois_N5: Tensor, size: int) -> Tensor:
    """Return each region of the map as [N,C,size,size], as `torchvision.ops.roi_align` does by default.

    rois_N5: index of the map, then x1,y1,x2,y2 in its cells. As many samples are taken as a region has cells,
    and nothing is shifted by half a cell (sampling_ratio -1, aligned False), as in the published head.
    """
    # The operator's gradient wants one type for both. A bfloat16 map becomes float32, exactly; rounding the boxes
    # instead would move them by up to 1/32 of a cell on a map of 16.
    dtype = torch.promote_types(map_BCHW.dtype, rois_N5.dtype)
    result: Tensor = _RoIAlign.apply(map_BCHW.to(dtype), rois_N5.to(dtype), size)
    return result


class _RoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, map_BCHW: Tensor, rois_N5: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(rois_N5)
        ctx.shape, ctx.size = map_BCHW.shape, size
        result: Tensor = torch.ops.torchvision.roi_align(map_BCHW, rois_N5, 1.0, size, size, -1, False)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (rois_N5,) = ctx.saved_tensors
        options = (1.0, ctx.size, ctx.size, *ctx.shape, -1, False)
        return torch.ops.torchvision._roi_align_backward(gradient, rois_N5, *options), None, None

    @staticmethod
    def symbolic(graph: Any, map_BCHW: Any, rois_N5: Any, size: int) -> Any:
        """What stands for it in an ONNX file: an operator of the same arithmetic."""
        index_N, boxes_N4 = (
            graph.op("Gather", rois_N5, graph.op("Constant", value_t=torch.tensor(columns)), axis_i=1)
            for columns in (0, [1, 2, 3, 4])
        )
        sizes = {"output_height_i": size, "output_width_i": size}
        options = {"sampling_ratio_i": 0, "coordinate_transformation_mode_s": "output_half_pixel", **sizes}
        return graph.op("RoiAlign", map_BCHW, boxes_N4, graph.op("Cast", index_N, to_i=7), **options)  # 7: int64


def _load_operators() -> None:
    spec = find_spec("torchvision")  # finds it without running it
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    for library in folder.glob("_C*.so"):  # _C.so, later _C_stable.so
        torch.ops.load_library(library)  # type: ignore[no-untyped-call]
        return
    raise ImportError("torchvision's operators are not installed: install torchvision as built for this torch")


_load_operators()
