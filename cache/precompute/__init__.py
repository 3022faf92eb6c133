"""Runs both backbones once over a split and fills its feature sets."""

from cache.precompute.plan import Progress, Stage
from cache.precompute.run import precompute

__all__ = ["Progress", "Stage", "precompute"]
