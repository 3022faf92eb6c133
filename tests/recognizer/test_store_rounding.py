"""What a float16 store does to the published head's logits: features go through a real store, and are read back."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.feature_store import FeatureBatch, FeatureWriter, RowIndex, open_feature_set
from cache.spec import BackboneSpec, FeatureSpec
from cache.store import Store
from recognizer_svc.batching import head_batch
from recognizer_svc.heads.acar.config import AcarConfig
from recognizer_svc.heads.acar.model import AcarHead
from recognizer_svc.heads.batch import HeadBatch
from stal_data.keyframes import KeyFrame
from tests.recognizer.feature_maps import feature_shapes, kept
from tests.seeded import head_inputs, seeded_state_dict
from tests.tolerances import FLOAT16_STORE, check, of_the_largest

SHAPES = feature_shapes(slow=(2048, 14, 14), fast=(256, 14, 14), vit=(1408, 16, 16), vit_frames=16)
KEYS = tuple(KeyFrame("v", 1000 * second) for second in range(3))


def spec_of(dtype: str) -> FeatureSpec:
    backbones = tuple(
        BackboneSpec(kind=kind, preset="seeded", config={}, weights="random:0", trained=False, height=224, width=224)
        for kind in ("slowfast", "vit")
    )
    return FeatureSpec(backbones=backbones, decoder="none", dtype=dtype)


def through_store(folder: Path, arrays: dict[str, np.ndarray], dtype: str) -> FeatureBatch:
    """Write the three clips to a store of its own, open it anew and read them."""
    index = RowIndex(
        key_frames=KEYS,
        windows_K2=np.array([[1, 65]] * 3, dtype=np.int64),
        sources_K=np.arange(3, dtype=np.uint64),
    )
    writer = FeatureWriter.open(
        Store.open(folder, create=True),
        dataset="d",
        split="s",
        spec=spec_of(dtype),
        index=index,
        shapes={name: values.shape[1:] for name, values in arrays.items()},
        rows_per_shard=2,
    )
    for shard in writer.pending():
        rows = list(writer.manifest.rows_of(shard))
        with writer.claim(shard) as claim:
            writer.write_shard(claim, {name: values[rows] for name, values in arrays.items()})
    found = open_feature_set(Store.open(folder), "d", "s", spec=spec_of(dtype))
    return found.read([found.row_of(key) for key in KEYS])


@pytest.fixture(scope="module")
def batches(tmp_path_factory) -> dict[str, HeadBatch]:
    """The published inputs pooled in float32, as they come out of a store of each number format."""
    slow, fast, vit, rois_N5 = head_inputs()
    arrays = {name: values.numpy() for name, values in kept(slow=slow, fast=fast, vit=vit).items()}
    boxes = [rois_N5[rois_N5[:, 0] == clip, 1:].numpy() for clip in range(3)]
    read = {dtype: through_store(tmp_path_factory.mktemp(dtype), arrays, dtype) for dtype in ("float16", "float32")}
    return {
        "exact": head_batch(arrays, boxes, SHAPES, KEYS),
        **{dtype: head_batch(found, boxes, SHAPES, KEYS) for dtype, found in read.items()},
    }


def test_a_float32_store_changes_no_bit(batches):
    for name in ("slow", "fast", "vit", "vit_moments"):
        assert torch.equal(batches["float32"].features[name], batches["exact"].features[name]), name


def test_a_float16_store_rounds_the_maps_and_not_the_moments(batches):
    for name in ("slow", "fast", "vit"):
        stored, exact = batches["float16"].features[name], batches["exact"].features[name]
        assert not torch.equal(stored, exact)
        torch.testing.assert_close(stored, exact, rtol=2**-11, atol=2**-25)
    assert torch.equal(batches["float16"].features["vit_moments"], batches["exact"].features["vit_moments"])


@pytest.fixture(scope="module")
def head() -> AcarHead:
    """At the published size."""
    with torch.device("meta"):
        head = AcarHead(AcarConfig(dropout=0.0), SHAPES, 50)
    shapes = json.loads((Path(__file__).parent / "fixtures/head_shapes.json").read_text())
    head.load_state_dict(seeded_state_dict(shapes), assign=True)
    return head


@pytest.mark.parametrize("training", [False, True])
def test_a_float16_store_moves_the_published_heads_logits_by_little(batches, head, training):
    head.train(training)
    with torch.no_grad():
        exact, stored = (head(batches[name]) for name in ("exact", "float16"))
    mode = "training" if training else "eval"
    check(f"logits from float16, {mode} mode", of_the_largest(stored, exact), FLOAT16_STORE)
