"""Scores through the running service: the same numbers as the head itself gives, and clear refusals."""

import asyncio
import csv
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cache.feature_store import open_feature_set
from cache.proposal_store import DetectorSpec, Proposals, write_proposals
from cache.split_store import load_split
from cache.store import Store
from cache.tracks import Tracks
from cli.commands.predict import write_predictions
from cli.workflow.predictions import read_predictions
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient, SplitScores
from recognizer_svc.scoring.models import ModelCache
from recognizer_svc.scoring.predict import BoxesOfKeyFrame, Predictor
from recognizer_svc.scoring.queries import PredictQuery, RecognizeQuery
from recognizer_svc.scoring.scoring_thread import Scoring
from recognizer_svc.service.server import RecognizerConfig, RecognizerService
from recognizer_svc.training.checkpoint import load_checkpoint, save_checkpoint
from stal_data.errors import ConflictError, InputError, NotFoundError
from stal_data.keyframes import KeyFrame, ScoredKeyFrame
from stal_eval.table import load_table
from svc_common.config import ClientConfig, ServerConfig
from svc_common.errors import BusyError, DeadlineError
from svc_common.fair_queue import Flow
from svc_common.metrics import Metrics
from svc_common.server import ServiceServer
from tests.recognizer.toy_store import LABELS, toy_spec
from tests.services.conftest import TRAINED, Trained
from tests.services.recognizer_process import stal_cli
from tests.services.split_copy import copy_split

DETECTOR = DetectorSpec(name="toy-detector", weights="sha256:0", height=64, width=96, confidence=0.3, library="none")
BOX = pb.Box(x1=0.1, y1=0.1, x2=0.5, y2=0.9)
FLOW = Flow("connection", "batch")


def predict_request(**fields: object) -> pb.PredictRequest:
    values = {"run_id": TRAINED, "dataset": "toy", "split": "test", "ground_truth": pb.GroundTruthBoxes()} | fields
    return pb.PredictRequest(**values)


def recognize_request(**fields: object) -> pb.RecognizeRequest:
    values = {"run_id": TRAINED, "dataset": "toy", "split": "test", "video": "video0", "time_ms": 0, "boxes": [BOX]}
    return pb.RecognizeRequest(**values | fields)


async def predict(trained: Trained, request: pb.PredictRequest) -> tuple[SplitScores, list[ScoredKeyFrame]]:
    async with RecognizerClient(trained.service.client) as client:
        head, *items = [answer async for answer in client.predict(request)]
    assert isinstance(head, SplitScores)
    return head, [item for item in items if isinstance(item, ScoredKeyFrame)]


def expected(store: Store, checkpoint: str = "best") -> dict[KeyFrame, NDArray[np.float32]]:
    """Scores of the test split's ground-truth boxes without any service."""
    predictor = Predictor.load(store.runs_dir / TRAINED / "checkpoints" / f"{checkpoint}.safetensors", device="cpu")
    people = [
        BoxesOfKeyFrame(key=item.key, boxes_N4=item.boxes_N4)
        for item in load_split(store, "toy", "test").key_frames
        if len(item.boxes_N4)
    ]
    features = open_feature_set(store, "toy", "test")
    return {item.key: item.scores_NC for item in predictor.predict(features, people)}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    """As the service has, so that sums are added in the same order."""
    torch.set_num_threads(1)


async def test_the_stream_carries_the_heads_own_numbers(trained: Trained) -> None:
    head, items = await predict(trained, predict_request())
    wanted = expected(trained.store)
    assert [item.key for item in items] == list(wanted)
    assert head.num_key_frames == len(items)
    assert head.num_boxes == sum(len(item.boxes_N4) for item in items)
    for item in items:
        np.testing.assert_array_equal(item.scores_NC, wanted[item.key])
    assert head.label_ids == LABELS.ids
    assert (head.model.checkpoint, head.model.head, head.notes) == ("best", "acar", ())


def test_the_file_keeps_every_bit_of_the_scores(trained: Trained, tmp_path: Path) -> None:
    output = tmp_path / "predictions.csv"
    done = stal_cli(
        *("predict", "--run", TRAINED, "--dataset", "toy", "--split", "test", "--boxes", "ground-truth"),
        *("--checkpoint", "latest", "--recognizer", trained.service.address, "--output", str(output)),
    )
    assert done.returncode == 0, done.stderr
    wanted = expected(trained.store, "latest")
    boxes = {item.key: item.boxes_N4 for item in load_split(trained.store, "toy", "test").key_frames}
    with output.open(newline="") as file:
        rows = list(csv.reader(file))
    assert len(rows) == sum(scores.size for scores in wanted.values())
    position = 0
    for key, scores_NC in wanted.items():
        for box, scores in zip(boxes[key], scores_NC, strict=True):
            for label_id, score in zip(LABELS.ids, scores, strict=True):
                row = rows[position]
                assert row[:2] == [key.video, f"{key.time_ms // 1000:04d}"]
                assert [np.float32(value) for value in row[2:6]] == list(box)
                assert (int(row[6]), np.float32(row[7])) == (label_id, score)
                position += 1
    assert list(tmp_path.iterdir()) == [output]


async def test_recognize_agrees_with_predict(trained: Trained) -> None:
    (key, scores_NC), *_ = expected(trained.store).items()
    (frame,) = [item for item in load_split(trained.store, "toy", "test").key_frames if item.key == key]
    boxes = [pb.Box(x1=x1, y1=y1, x2=x2, y2=y2) for x1, y1, x2, y2 in frame.boxes_N4]
    request = recognize_request(video=key.video, time_ms=key.time_ms, boxes=boxes)
    async with RecognizerClient(trained.service.client) as client:
        model, found = await client.recognize(request)
    # Alone or among other key frames: only the order in which a matrix product adds up may differ.
    np.testing.assert_allclose(found, scores_NC, rtol=1e-5)
    assert [label.name for label in model.labels] == list(LABELS.names)


def around(time_ms: int, *, boxes: int = 1) -> pb.KeyFramePeople:
    return pb.KeyFramePeople(time_ms=time_ms, boxes=[BOX] * boxes)


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({"boxes": [pb.Box(x1=float("nan"), y1=0, x2=1, y2=1)]}, InputError, "must be x1,y1,x2,y2"),
        ({"boxes": [pb.Box(x1=0, y1=0, x2=float("inf"), y2=1)]}, InputError, "must be x1,y1,x2,y2"),
        ({"boxes": [pb.Box(x1=0.6, y1=0, x2=0.5, y2=1)]}, InputError, "must be x1,y1,x2,y2"),
        ({"boxes": [pb.Box(x1=0.5, y1=0, x2=1.01, y2=1)]}, InputError, "must be x1,y1,x2,y2"),
        ({"boxes": []}, InputError, "0 boxes were given"),
        ({"boxes": [BOX] * 501}, InputError, "501 boxes were given"),
        ({"boxes": [pb.Box(x2=1, y2=1, person=-1)]}, InputError, "person is -1, but must be 0 or more"),
        ({"neighbours": [around(1000)]}, InputError, "but the head looks at no key frame but the one to score"),
        ({"neighbours": [around(0)]}, InputError, "video0,0000 twice, or it is the key frame to score"),
        ({"neighbours": [around(1000)] * 2}, InputError, "video0,0001 twice"),
        (
            {"neighbours": [around(1000 * n) for n in range(1, 202)]},
            InputError,
            "201 key frames with 201 boxes",
        ),
        ({"neighbours": [around(1000, boxes=501)]}, InputError, "501 boxes in video0,0001, but may have 500"),
        ({"time_ms": 99000}, NotFoundError, "video0,0099 is not in the feature set"),
        ({"time_ms": 400}, NotFoundError, "video0,0000.4 is not in the feature set"),
        ({"time_ms": -1}, InputError, "video 'video0' is -1 ms, but must be from 0"),
        ({"run_id": "traned"}, NotFoundError, f"Did you mean '{TRAINED}'"),
        ({"run_id": "../trained"}, InputError, "run id is '../trained'"),
        ({"checkpoint": "first"}, InputError, "must be best or latest"),
        ({"dataset": "toys"}, NotFoundError, "no features for toys/test"),
        ({"split": "../test"}, InputError, "split"),
        ({"feature_set": "0123"}, NotFoundError, "no feature set '0123'"),
    ],
)
async def test_what_recognize_refuses(
    trained: Trained, fields: dict[str, object], kind: type[Exception], text: str
) -> None:
    async with RecognizerClient(trained.service.client) as client:
        with pytest.raises(kind, match=text):
            await client.recognize(recognize_request(**fields))


async def test_proposals_are_scored_and_boxes_without_area_left_out(trained: Trained) -> None:
    keys = tuple(item.key for item in load_split(trained.store, "toy", "test").key_frames)
    boxes = np.tile(np.array([[0.1, 0.1, 0.5, 0.9], [1, 0, 1, 0.5]], np.float32), (len(keys), 1))
    proposals = Proposals(
        dataset="toy",
        split="test",
        key_frames=keys,
        offsets_K1=np.arange(0, len(boxes) + 1, 2),
        boxes_N4=boxes,
        scores_N=np.full(len(boxes), 0.9, np.float32),
        detector=DETECTOR,
    )
    path = write_proposals(trained.store, proposals)
    request = predict_request(proposals=pb.ProposedBoxes())
    head, items = await predict(trained, request)
    assert [item.key for item in items] == list(keys)
    assert all(item.scores_NC.shape == (1, 4) for item in items)
    assert head.notes == (f"{len(keys)} boxes without area left out",)
    assert (await predict(trained, predict_request(proposals=pb.ProposedBoxes(name="toy-detector"))))[0] == head
    fused, weighted = await predict(trained, predict_request(proposals=pb.ProposedBoxes(fuse_confidence=True)))
    assert fused.notes == (*head.notes, "scores are multiplied by the confidence of 'toy-detector'")
    for item, other in zip(items, weighted, strict=True):
        np.testing.assert_array_equal(other.scores_NC, item.scores_NC * np.float32(0.9))
    with pytest.raises(NotFoundError, match="toy/test has no mirrored twin"):
        await predict(trained, predict_request(flip_average=True))
    with pytest.raises(NotFoundError, match="toy-detector"):
        await predict(trained, predict_request(proposals=pb.ProposedBoxes(name="other")))
    path.unlink()


async def test_tracked_people_keep_their_ids_in_the_answer_and_in_the_file(trained: Trained, tmp_path: Path) -> None:
    keys = tuple(item.key for item in load_split(trained.store, "toy", "test").key_frames)
    count = 2 * len(keys)
    ids = np.where(np.arange(count) % 2, -1, 1 + np.arange(count) % 6)
    tracks = Tracks(
        tracker="toy",
        ids_N=ids,
        frames=(),
        offsets_M1=np.zeros(1, np.int64),
        boxes_P4=np.empty((0, 4), np.float32),
        scores_P=np.empty(0, np.float32),
        ids_P=np.empty(0, np.int64),
    )
    proposals = Proposals(
        dataset="toy",
        split="test",
        key_frames=keys,
        offsets_K1=np.arange(0, count + 1, 2),
        boxes_N4=np.tile(np.array([[0.1, 0.1, 0.5, 0.9], [0.4, 0.1, 0.9, 0.9]], np.float32), (len(keys), 1)),
        scores_N=np.full(count, 0.9, np.float32),
        detector=replace(DETECTOR, name="tracked"),
        tracks=tracks,
    )
    path = write_proposals(trained.store, proposals)
    request = predict_request(proposals=pb.ProposedBoxes(name="tracked"))
    _, items = await predict(trained, request)
    np.testing.assert_array_equal(np.concatenate([item.persons_N for item in items]), ids)
    output = tmp_path / "p.csv"
    await write_predictions(RecognizerClient(trained.service.client), request, output)
    path.unlink()
    with output.open(newline="") as file:
        rows = list(csv.reader(file))
    assert {len(row) for row in rows} == {9}
    table = load_table(output, "predictions")
    assert table.person_N is not None
    np.testing.assert_array_equal(table.person_N, np.repeat(ids, len(LABELS.ids)))
    read = read_predictions(output, min_score=0.0)
    assert [person.track for key in keys for person in read[key]] == ids.tolist()
    assert [len(person.actions) for person in read[keys[0]]] == [len(LABELS.ids)] * 2


def test_the_row_layout_scores_annotated_people_alone(trained: Trained, tmp_path: Path) -> None:
    """The toy annotations have one row a person, so the files differ by the company that the head sees."""
    rows = {}
    for layout in ("rows", "key_frames"):
        output = tmp_path / f"{layout}.csv"
        done = stal_cli(
            *("predict", "--run", TRAINED, "--dataset", "toy", "--split", "test", "--boxes", "ground-truth"),
            *("--layout", layout, "--recognizer", trained.service.address, "--output", str(output)),
        )
        assert done.returncode == 0, done.stderr
        assert ("trained in the layout key_frames and predicts in rows" in done.stderr) == (layout == "rows")
        with output.open(newline="") as file:
            rows[layout] = list(csv.reader(file))
    assert [row[:7] for row in rows["rows"]] == [row[:7] for row in rows["key_frames"]]
    predictor = Predictor.load(trained.store.runs_dir / TRAINED / "checkpoints" / "best.safetensors", device="cpu")
    alone = [
        BoxesOfKeyFrame(key=item.key, boxes_N4=item.boxes_N4[[person]])
        for item in load_split(trained.store, "toy", "test").key_frames
        for person in range(len(item.boxes_N4))
    ]
    features = open_feature_set(trained.store, "toy", "test")
    expected = np.concatenate([item.scores_NC.ravel() for item in predictor.predict(features, alone)])
    np.testing.assert_array_equal(np.float32([row[7] for row in rows["rows"]]), expected)
    assert (np.float32([row[7] for row in rows["key_frames"]]) != expected).any()


async def test_an_unknown_layout_is_refused(trained: Trained) -> None:
    with pytest.raises(InputError, match="layout is 9, which this version does not know"):
        await predict(trained, predict_request(layout=9))


async def test_predict_needs_a_source_of_boxes(trained: Trained) -> None:
    with pytest.raises(InputError, match="choose ground_truth or proposals"):
        await predict(trained, pb.PredictRequest(run_id=TRAINED, dataset="toy", split="test"))


async def test_models_are_listed_with_what_they_score(trained: Trained) -> None:
    async with RecognizerClient(trained.service.client) as client:
        (model,) = [model for model in await client.list_models() if model.run_id == TRAINED]
    best = Predictor.load(trained.store.runs_dir / TRAINED, checkpoint="best").checkpoint.progress
    assert (model.checkpoint, model.head, model.epoch) == ("best", "acar", best.epochs_done)
    assert model.validation_map == best.validation_map
    assert [label.id for label in model.labels] == list(LABELS.ids)


async def test_models_are_listed_while_a_long_scoring_holds_the_thread(trained: Trained) -> None:
    service = RecognizerService(RecognizerConfig(store=trained.store), Metrics())
    server = ServiceServer(ServerConfig(), [service], name="recognizer")
    address = f"127.0.0.1:{await server.start()}"
    release = threading.Event()
    service._scoring._thread.submit(release.wait)
    try:
        async with RecognizerClient(ClientConfig(address=address)) as client, asyncio.timeout(120):
            assert TRAINED in {model.run_id for model in await client.list_models()}
    finally:
        release.set()
        await server.stop(0)


def test_a_head_is_loaded_once_and_again_when_its_file_changes(trained: Trained, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "copy" / "checkpoints"
    run.mkdir(parents=True)
    source = trained.store.runs_dir / TRAINED / "checkpoints"
    (run / "latest.safetensors").write_bytes((source / "best.safetensors").read_bytes())
    models = ModelCache(Store.open(tmp_path), device="cpu")
    first = models.get("copy", "")
    assert models.get("copy", "latest") is first
    checkpoint = load_checkpoint(source / "best.safetensors")
    progress = replace(checkpoint.progress, epochs_done=checkpoint.progress.epochs_done + 1)
    save_checkpoint(run / "latest.safetensors", replace(checkpoint, progress=progress))
    second = models.get("copy", "")
    assert second.info.digest != first.info.digest
    assert second.info.epoch == first.info.epoch + 1
    with pytest.raises(
        NotFoundError, match=r"no best checkpoint, only latest: name that or none.*validation.keep_best=true"
    ):
        models.get("copy", "best")


async def test_features_of_another_decoder_are_scored_with_a_note(trained: Trained) -> None:
    copy_split(trained.store, "video", replace(toy_spec(), decoder="pyav 99"))
    head, items = await predict(trained, predict_request(split="video"))
    wanted = expected(trained.store)
    for item in items:
        np.testing.assert_array_equal(item.scores_NC, wanted[item.key])
    (note,) = head.notes
    assert "decoder: png / pyav 99" in note


async def test_features_of_another_backbone_are_refused_by_field(trained: Trained) -> None:
    spec = toy_spec()
    other = spec.with_backbone(replace(spec.backbone("slowfast"), weights="random:7"))
    copy_split(trained.store, "foreign", other)
    with pytest.raises(ConflictError, match=r"slowfast.weights: random:0 / random:7"):
        await predict(trained, predict_request(split="foreign"))
    with pytest.raises(ConflictError, match=r"slowfast.weights: random:0 / random:7"):
        await predict(trained, predict_request(split="foreign", feature_set=other.id))


async def test_calls_beyond_the_limit_are_refused_and_late_ones_dropped(trained: Trained) -> None:
    scoring = Scoring(trained.store, device="cpu", max_requests=2)
    release = threading.Event()
    scoring._thread.submit(release.wait)  # whatever the thread is at
    query = RecognizeQuery(
        run_id=TRAINED,
        checkpoint="",
        dataset="toy",
        split="test",
        key=KeyFrame("video0", 0),
        boxes_N4=np.array([[0.1, 0.1, 0.5, 0.9]], np.float32),
        feature_set="",
    )
    late = asyncio.create_task(scoring.recognize(query, time.monotonic(), FLOW))
    good = asyncio.create_task(scoring.recognize(query, float("inf"), FLOW))
    await asyncio.sleep(0)
    with pytest.raises(BusyError, match="--max-requests"):
        await scoring.recognize(query, float("inf"), FLOW)
    split = PredictQuery(run_id=TRAINED, checkpoint="", dataset="toy", split="test", proposals=None, feature_set="")
    with pytest.raises(BusyError):
        await anext(scoring.predict(split, deadline=float("inf")))
    release.set()
    with pytest.raises(DeadlineError):
        await late
    assert (await good)[1].shape == (1, 4)
    # The places are free again.
    assert len([answer async for answer in scoring.predict(split, deadline=float("inf"))]) == 2
    scoring.close()


async def test_a_client_states_its_priority(trained: Trained) -> None:
    async with RecognizerClient(trained.service.client, priority="live") as client:
        assert (await client.recognize(recognize_request()))[1].shape == (1, 4)
    async with RecognizerClient(trained.service.client, priority="urgent") as client:
        with pytest.raises(InputError, match="stal-priority is 'urgent', but must be live or batch"):
            await client.recognize(recognize_request())


async def test_the_clients_deadline_ends_the_call(trained: Trained) -> None:
    async with RecognizerClient(trained.service.client) as client:
        with pytest.raises(DeadlineError):
            await client.recognize(recognize_request(), timeout_s=0.000001)
