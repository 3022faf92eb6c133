"""A crowd in one key frame, through a real service: the head's own scores, in memory that grows with its people."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cache.feature_store import FeatureSet, FeatureWriter, RowIndex, open_feature_set
from cache.split_store import publish_split
from cache.store import Store
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from recognizer_svc.heads import build_head
from recognizer_svc.heads.batch import FeatureShapes, HeadBatch
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.training.checkpoint import Checkpoint, Progress, load_checkpoint, save_checkpoint
from recognizer_svc.training.recipe import parse_recipe
from stal_data.dataset import Split
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from tests.recognizer.feature_maps import feature_shapes
from tests.recognizer.toy_store import ACAR, LABELS, VIT_FRAMES, toy_spec
from tests.services.recognizer_process import RecognizerProcess

PEOPLE = 100
KEY = KeyFrame("square", 3000)
# The published maps have these rows and columns; the channels are fewer.
SHAPES = {"slow": (64, 14, 14), "fast": (16, 14, 14), "vit": (48, 16, 16), "vit_moments": (2, 48)}
# Half of the published sizes.
HEAD = ["head.reduce_channels=512", "head.context_channels=256", "head.depth=2"]
BYTES_PER_PERSON = 1_000_000
"""Measured: 0.55 MB. A map of 7x7 for each pair of people would take 0.5 GB for the 100."""


def crowded_store(folder: Path) -> Store:
    """One key frame with both backbones' features, and a run with an ACAR head of random weights."""
    store = Store.open(folder, create=True)
    boxes_N4 = np.array([[0.1, 0.1, 0.4, 0.9]], np.float32)
    annotated = AnnotatedKeyFrame(key=KEY, window=(1, 65), boxes_N4=boxes_N4, labels=(frozenset({1}),), persons=(0,))
    publish_split(
        store,
        Split(
            dataset="crowd",
            name="test",
            key_frames=(annotated,),
            exclusions=frozenset(),
            annotated=True,
            label_map=LABELS,
            media=None,
        ),
    )
    random = np.random.default_rng(0)
    arrays = {name: random.normal(0, 1, (1, *shape)).astype(np.float32) for name, shape in SHAPES.items()}
    arrays["vit_moments"][:, 1] = 1  # mean squares
    index = RowIndex(key_frames=(KEY,), windows_K2=np.array([[1, 65]]), sources_K=np.zeros(1, np.uint64))
    writer = FeatureWriter.open(
        store, dataset="crowd", split="test", spec=toy_spec(), index=index, shapes=SHAPES, rows_per_shard=1
    )
    with writer.claim(0) as claim:
        writer.write_shard(claim, arrays)

    recipe = parse_recipe(ACAR, overrides=["data.dataset=crowd", *HEAD])
    shapes = FeatureShapes.of(toy_spec(), SHAPES)
    torch.manual_seed(0)
    checkpoint = Checkpoint(
        recipe=recipe,
        label_map=LABELS,
        feature_spec=toy_spec(),
        shapes=shapes,
        head_state=build_head(recipe.head, shapes, LABELS.num_classes).state_dict(),
        optimizer_state={},
        progress=Progress(),
    )
    path = RunDir(store.runs_dir / "crowd").checkpoint("latest")
    path.parent.mkdir(parents=True)
    save_checkpoint(path, checkpoint)
    return store


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RecognizerProcess]:
    crowded_store(tmp_path / "store")
    process = RecognizerProcess(tmp_path / "store", tmp_path, "--device", "cpu").start()
    yield process
    process.kill()


def peak_bytes(service: RecognizerProcess) -> int:
    assert service.process is not None
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{service.process.pid}/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024


def scored_directly(store: Store, boxes_N4: NDArray[np.float32]) -> NDArray[np.float32]:
    """By the head alone, from the arrays as they lie in the cache."""
    features: FeatureSet = open_feature_set(store, "crowd", "test")
    row = features.read([features.row_of(KEY)])
    checkpoint = load_checkpoint(RunDir(store.runs_dir / "crowd").checkpoint("latest"))
    shapes = feature_shapes(slow=(64, 14, 14), fast=(16, 14, 14), vit=(48, 16, 16), vit_frames=VIT_FRAMES)
    head = build_head(checkpoint.recipe.head, shapes, LABELS.num_classes)
    head.load_state_dict(checkpoint.head_state)
    batch = HeadBatch(
        features={name: torch.from_numpy(values.astype(np.float32)) for name, values in row.items()},
        boxes_N4=torch.from_numpy(boxes_N4),
        clip_of_N=torch.zeros(len(boxes_N4), dtype=torch.int64),
    )
    with torch.inference_mode():
        return torch.sigmoid(head.eval()(batch)).numpy()


async def test_a_hundred_people_of_a_key_frame_are_scored_in_bounded_memory(
    service: RecognizerProcess, tmp_path: Path
) -> None:
    random = np.random.default_rng(1)
    boxes_N4 = np.sort(random.random((PEOPLE, 2, 2), np.float32), axis=1).reshape(PEOPLE, 4)
    boxes = [pb.Box(x1=x1, y1=y1, x2=x2, y2=y2) for x1, y1, x2, y2 in boxes_N4.tolist()]

    def request(count: int) -> pb.RecognizeRequest:
        return pb.RecognizeRequest(
            run_id="crowd", dataset="crowd", split="test", video=KEY.video, time_ms=KEY.time_ms, boxes=boxes[:count]
        )

    async with RecognizerClient(service.client) as client:
        _, alone_NC = await client.recognize(request(1))  # loads the head
        before = peak_bytes(service)
        _, found_NC = await client.recognize(request(PEOPLE))
        grown = peak_bytes(service) - before
    assert found_NC.shape == (PEOPLE, LABELS.num_classes)
    assert 0 < grown < PEOPLE * BYTES_PER_PERSON
    torch.set_num_threads(1)  # as the service
    expected_NC = scored_directly(Store.open(tmp_path / "store"), boxes_N4)
    # The same arithmetic; the order of sums may follow the batch.
    np.testing.assert_allclose(found_NC, expected_NC, rtol=1e-5, atol=1e-6)
    # They are judged with an eye on each other.
    assert np.abs(found_NC[0] - alone_NC[0]).max() > 1e-4
