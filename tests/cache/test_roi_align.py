"""RoIAlign without `import torchvision` against torchvision's own function."""

import subprocess
import sys

import torch
from torchvision.ops import roi_align as torchvisions

from cache.roi_align import roi_align


def test_values_and_gradients_are_torchvisions_to_the_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    corner_N2 = torch.rand(40, 2, generator=generator) * 15 - 2  # some lie outside the map
    size_N2 = torch.rand(40, 2, generator=generator) * 16
    clip_N1 = torch.randint(3, (40, 1), generator=generator).float()
    rois_N5 = torch.cat([clip_N1, corner_N2, corner_N2 + size_N2], dim=1)
    rois_N5 = torch.cat([rois_N5, torch.tensor([[0, 0, 0, 14, 12.0], [1, 3, 3, 3, 3]])])  # all of it, and nothing
    results = []
    for function in (roi_align, torchvisions):
        map_BCHW = torch.randn(3, 5, 12, 14, generator=generator.manual_seed(1), requires_grad=True)
        roi_NC77 = function(map_BCHW, rois_N5, 7)
        roi_NC77.square().sum().backward()
        results.append((roi_NC77.detach(), map_BCHW.grad))
    (mine, my_gradient), (theirs, their_gradient) = results
    assert torch.equal(mine, theirs)
    assert torch.equal(my_gradient, their_gradient)


def test_no_actors_give_nothing_and_no_gradient() -> None:
    map_BCHW = torch.ones(1, 2, 4, 4, requires_grad=True)
    roi_NC33 = roi_align(map_BCHW, torch.empty(0, 5), 3)
    assert roi_NC33.shape == (0, 2, 3, 3)
    roi_NC33.sum().backward()
    assert torch.equal(map_BCHW.grad, torch.zeros_like(map_BCHW))


def test_a_training_process_imports_neither_torchvision_nor_torchs_compiler() -> None:
    code = (
        "import sys, recognizer_svc.training.worker, recognizer_svc.heads.acar, recognizer_svc.heads.linear\n"
        "print(sorted({'torchvision', 'torch._dynamo', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_boxes_stay_exact_on_a_map_of_half_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    rois_N5 = torch.cat([torch.zeros(5, 1), torch.rand(5, 4, generator=generator).sort(dim=1).values * 9], dim=1)
    half_BCHW = torch.randn(1, 3, 9, 9, generator=generator).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        roi_NC77 = roi_align(half_BCHW, rois_N5, 7)
    assert torch.equal(roi_NC77, roi_align(half_BCHW.float(), rois_N5, 7))
    roi_NC77.sum().backward()
    map_BCHW = half_BCHW.detach().float().requires_grad_()
    roi_align(map_BCHW, rois_N5, 7).sum().backward()
    assert torch.equal(half_BCHW.grad, map_BCHW.grad.bfloat16())
