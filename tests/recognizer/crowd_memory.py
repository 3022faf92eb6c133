"""Print by how many bytes the peak memory of a process grows when it scores so many people of one key frame.

The head has the published sizes where memory depends on people; its maps are small.
"""

import sys
from pathlib import Path

import torch

from recognizer_svc.heads.acar.model import AcarConfig, AcarHead
from recognizer_svc.heads.batch import FeatureShapes, HeadBatch


def batch_of(people: int) -> HeadBatch:
    random = torch.Generator().manual_seed(0)
    corner_N2 = torch.rand(people, 2, generator=random) * 0.5
    return HeadBatch(
        slow_BCHW=torch.randn(1, 64, 14, 14, generator=random),
        fast_BCHW=None,
        vit_BCHW=None,
        vit_moments_B2C=None,
        boxes_N4=torch.cat([corner_N2, corner_N2 + 0.3], dim=1),
        clip_of_N=torch.zeros(people, dtype=torch.int64),
    )


def peak_bytes() -> int:
    # Not getrusage, whose figure a process inherits from the one that started it.
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


torch.set_num_threads(1)
shapes = FeatureShapes(slow_CHW=(64, 14, 14), fast_CHW=None, vit_CHW=None, vit_frames=0)
head = AcarHead(AcarConfig(shapes=shapes, num_classes=50)).eval()
with torch.inference_mode():
    head(batch_of(1))
    crowd = batch_of(int(sys.argv[1]))
    before = peak_bytes()
    assert head(crowd).isfinite().all()
print(peak_bytes() - before)
