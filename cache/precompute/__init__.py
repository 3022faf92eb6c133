"""Runs both backbones once over a split and fills its feature sets."""

from cache.precompute.estimate import Estimate, estimate
from cache.precompute.launch import Part, read_part
from cache.precompute.options import PrecomputeOptions
from cache.precompute.plan import Phase, Progress
from cache.precompute.run import feature_sets, precompute, prepare

__all__ = [
    "Estimate", "Part", "Phase", "PrecomputeOptions", "Progress", "estimate", "feature_sets", "precompute", "prepare",
    "read_part",
]  # fmt: skip
