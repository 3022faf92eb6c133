"""Cached backbone features of a split: a Zarr v3 group that is written by shards and read by rows.

A row is a key frame. Format: docs/cache-format.md.
"""

from cache.feature_store.catalog import (
    FeatureSetInfo,
    describe_feature_set,
    list_feature_sets,
    open_feature_set,
)
from cache.feature_store.claim import ShardClaim
from cache.feature_store.errors import DamagedError
from cache.feature_store.layout import FeatureBatch, FeatureManifest, RowIndex
from cache.feature_store.locate import feature_set_folders
from cache.feature_store.reader import FeatureSet
from cache.feature_store.verify import DamagedShard, reset_shard, verify_feature_set
from cache.feature_store.writer import FeatureWriter

__all__ = [
    "DamagedError",
    "DamagedShard",
    "FeatureBatch",
    "FeatureManifest",
    "FeatureSet",
    "FeatureSetInfo",
    "FeatureWriter",
    "RowIndex",
    "ShardClaim",
    "describe_feature_set",
    "feature_set_folders",
    "list_feature_sets",
    "open_feature_set",
    "reset_shard",
    "verify_feature_set",
]
