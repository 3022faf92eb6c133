"""The toy test split under another name, for features of another make."""

import numpy as np

from cache.feature_store import FeatureWriter, open_feature_set
from cache.spec import FeatureSpec
from cache.split_store import load_split, publish_split
from cache.store import Store
from stal_data.dataset import Split
from tests.recognizer.toy_store import LABELS


def copy_split(store: Store, name: str, spec: FeatureSpec) -> None:
    """Publish the toy test split once more under another name, with features of another spec."""
    split = load_split(store, "toy", "test")
    publish_split(
        store,
        Split(
            dataset="toy",
            name=name,
            key_frames=split.key_frames,
            exclusions=frozenset(),
            annotated=True,
            label_map=LABELS,
            media=None,  # the features are copied
        ),
    )
    features = open_feature_set(store, "toy", "test")
    arrays = features.read(range(len(features.key_frames)))
    writer = FeatureWriter.open(
        store,
        dataset="toy",
        split=name,
        spec=spec,
        index=features.index,
        shapes=features.shapes,
        rows_per_shard=64,
    )
    for shard in writer.pending():
        with writer.claim(shard) as claim:
            floats = {array: values.astype(np.float32) for array, values in arrays.items()}
            writer.write_shard(claim, floats)
