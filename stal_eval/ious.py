"""IoU thresholds at which figures are given."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stal_data.errors import InputError, shown
from stal_eval.curve import mean_over_classes

COCO_IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""0.5 to 0.95 in steps of 0.05, over which COCO averages mAP."""

_NUMBER = r"(0?\.\d{1,4}|1(?:\.0{1,4})?)"
_ITEM = re.compile(rf"\s*{_NUMBER}\s*(?::\s*{_NUMBER}\s*)?")


def parse_ious(text: str | Iterable[float]) -> tuple[float, ...]:
    """Read `0.5,0.75`, `0.5:0.95` (steps of 0.05 up to the end) or a mix, or numbers; each once, increasing."""
    items = [item for item in text.split(",") if text] if isinstance(text, str) else [f"{iou:.10g}" for iou in text]
    ious: set[float] = set()
    for item in items:
        match = _ITEM.fullmatch(item)
        start, end = (0.0, 0.0) if match is None else (float(match[1]), float(match[2] or match[1]))
        steps = round((end - start) / 0.05, 2)
        if start == 0 or steps < 0 or steps != int(steps):
            raise InputError(
                f"iou is {shown(item)}, but must be numbers above 0 and up to 1 with at most four decimals, such as "
                "0.5,0.75, or a range that rises in steps of 0.05, such as 0.5:0.95."
            )
        ious |= {round(start + 0.05 * step, 4) for step in range(int(steps) + 1)}
    return tuple(sorted(ious))


def by_iou(ious: Sequence[float], ap_IK: NDArray[np.float64], names: Sequence[str]) -> dict[str, Any]:
    """Return mAP and AP at I IoUs as plain values. ap_IK: of the K classes `names`, NaN where not in the mean."""
    mean_ap = dict(zip(ious, mean_over_classes(ap_IK).tolist(), strict=True))
    coco = [mean_ap[iou] for iou in COCO_IOUS if iou in mean_ap]
    return {
        "ious": list(ious),
        "mAP": list(mean_ap.values()),
        "mAP_50_95": sum(coco) / len(coco) if len(coco) == len(COCO_IOUS) else None,
        "per_class": {
            name: None if np.isnan(ap_I).any() else ap_I.tolist() for name, ap_I in zip(names, ap_IK.T, strict=True)
        },
    }
