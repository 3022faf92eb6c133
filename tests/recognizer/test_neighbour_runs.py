"""Runs whose head looks at other key frames, as neighbours or as a feature bank: trained, validated, predicted with and
asked the same way.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

import stal
from cache.feature_store import open_feature_set
from cache.proposal_store import DetectorSpec, Proposals, open_proposals, write_proposals
from cache.split_store import load_split
from cache.store import Store
from cache.tracks import Tracks
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.data import LabelledFeatures
from recognizer_svc.heads.batch import FeatureShapes
from recognizer_svc.people import People
from recognizer_svc.runs.events import read_events
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.scoring.engine import Engine
from recognizer_svc.scoring.model_list import list_models
from recognizer_svc.scoring.predict import BoxesOfKeyFrame, Predictor
from recognizer_svc.scoring.queries import PredictQuery
from recognizer_svc.scoring.served_models import ServedModels
from recognizer_svc.service import messages
from recognizer_svc.training.checkpoint import load_checkpoint
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.inputs import open_inputs
from recognizer_svc.training.recipe import parse_recipe
from recognizer_svc.training.run import Run, train_run
from recognizer_svc.training.validation import mean_average_precision
from stal_data.errors import ConflictError, InputError, NotFoundError, StalError
from stal_data.keyframes import KeyFrame, ScoredKeyFrame
from tests.recognizer.conftest import make_run
from tests.recognizer.toy_store import ACAR, LABELS

RUN = "seeing"
RELATION = ["head={kind: relation, channels: 8}", "training.epochs=2"]
SEEING = [*RELATION, "data.neighbours=2"]
BANKED = [*RELATION, "data.bank_s=2"]
RUNS = {RUN: SEEING, "banked": BANKED, "both": [*SEEING, "data.bank_s=2"]}
SAID = {
    RUN: "2 key frames before and after, 1000 ms apart; toy/train has",
    "banked": "the feature bank of a clip is the people of the key frames within 2 s: ",
    "both": "the feature bank of a clip is the people of the key frames within 2 s: ",
}
each_run = pytest.mark.parametrize("run_id", RUNS)
DETECTOR = DetectorSpec(name="toy", weights="sha256:0", height=64, width=96, confidence=0.3, library="none")
LINE = [1.0, 0.2, 1.0, 0.6]


@pytest.fixture(scope="module")
def trained(toy_store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, RunDir]:
    root = tmp_path_factory.mktemp("neighbours") / "store"
    shutil.copytree(toy_store.root, root)
    for run_id, overrides in RUNS.items():
        train_run(make_run(root, run_id, overrides), Ranks())
    store = Store.open(root)
    split = load_split(store, "toy", "test")
    # Each key frame has a box without area first, which is left out.
    boxes = [np.concatenate([np.array([LINE], np.float32), item.boxes_N4]) for item in split.key_frames]
    write_proposals(
        store,
        Proposals(
            dataset="toy",
            split="test",
            key_frames=tuple(item.key for item in split.key_frames),
            offsets_K1=np.cumsum([0, *map(len, boxes)]),
            boxes_N4=np.concatenate(boxes),
            scores_N=np.full(sum(map(len, boxes)), 0.9, np.float32),
            detector=DETECTOR,
        ),
    )
    return store, RunDir(root / "runs" / RUN)


@pytest.fixture(scope="module")
def engine(trained: tuple[Store, RunDir]) -> Engine:
    return Engine(trained[0], device="cpu", served=ServedModels())


def predict(engine: Engine, proposals: str | None = None, run_id: str = RUN, **options: str) -> list[ScoredKeyFrame]:
    place = {"checkpoint": "latest", "dataset": "toy", "split": "test", "feature_set": ""}
    query = PredictQuery(run_id=run_id, proposals=proposals, **place, **options)
    return list(engine.prepare(query).scored)


def asking(
    key: KeyFrame, people: Mapping[KeyFrame, People], *, reach: int = 2, run_id: str = RUN, **fields: object
) -> pb.RecognizeRequest:
    """A call for a key frame's people that says who is in the key frames within `reach` seconds."""

    def boxes(found: People) -> list[pb.Box]:
        corners = [dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)) for box in found.boxes_N4.tolist()]
        ids = [{} if person < 0 else {"person": person} for person in found.persons_N.tolist()]
        return [pb.Box(**corner, **name) for corner, name in zip(corners, ids, strict=True)]

    around = [
        other for other in people if other.video == key.video and 0 < abs(other.time_ms - key.time_ms) <= reach * 1000
    ]
    return pb.RecognizeRequest(
        run_id=run_id,
        checkpoint="latest",
        dataset="toy",
        split="test",
        video=key.video,
        time_ms=key.time_ms,
        boxes=boxes(people[key]),
        neighbours=[pb.KeyFramePeople(time_ms=other.time_ms, boxes=boxes(people[other])) for other in around],
        **fields,
    )


def recognize(engine: Engine, *requests: pb.RecognizeRequest) -> list[np.ndarray]:
    answers = engine.recognize([messages.to_recognize_query(request) for request in requests])
    for answer in answers:
        if isinstance(answer, StalError):
            raise answer
    return [scores for _, scores in answers]


def truth(store: Store) -> dict[KeyFrame, People]:
    return {item.key: People.of(item.boxes_N4, item.persons) for item in load_split(store, "toy", "test").key_frames}


@each_run
def test_validation_and_prediction_see_the_same(trained, engine, run_id) -> None:
    store = trained[0]
    found = predict(engine, run_id=run_id)
    targets = [
        [label_id in ids for label_id in LABELS.ids]
        for item in load_split(store, "toy", "test").key_frames
        for ids in item.labels
    ]
    score = mean_average_precision(np.concatenate([item.scores_NC for item in found]), np.array(targets, np.float32))
    events = list(read_events(RunDir(store.runs_dir / run_id).events))
    assert score == pytest.approx([event.values["map"] for event in events if event.type == "validation"][-1], abs=1e-9)
    said = [str(event.values["message"]) for event in events if event.type == "log"]
    assert any(SAID[run_id] in text for text in said)


@each_run
@pytest.mark.parametrize("proposals", [None, "toy"])
def test_a_call_that_says_who_is_around_gets_the_scores_of_the_split(trained, engine, proposals, run_id) -> None:
    """With the annotated ids, and by boxes alone; together, where no call sees the people of another."""
    people = truth(trained[0])
    if proposals is not None:
        people = {key: People.of(found.boxes_N4) for key, found in people.items()}
    expected = predict(engine, proposals, run_id)
    assert [item.key for item in expected] == [key for key, found in people.items() if len(found.boxes_N4)]
    requests = [asking(item.key, people, run_id=run_id) for item in expected]
    for item, together, alone in zip(
        expected, recognize(engine, *requests), [recognize(engine, request)[0] for request in requests], strict=True
    ):
        np.testing.assert_allclose(together, item.scores_NC, rtol=1e-5)
        np.testing.assert_allclose(alone, item.scores_NC, rtol=1e-5)


def test_tracks_say_who_is_around(trained, engine) -> None:
    """Tracked as annotated, people get the scores of annotated ones, which boxes alone do not give; and their ids."""
    store, people = trained[0], truth(trained[0])
    found = open_proposals(store, "toy", "test", "toy")
    ids = [np.append(-1, people[key].persons_N + 1) for key in found.key_frames]
    tracks = Tracks(
        tracker="annotated",
        ids_N=np.concatenate(ids),
        frames=(),
        offsets_M1=np.zeros(1, np.int64),
        boxes_P4=np.empty((0, 4), np.float32),
        scores_P=np.empty(0, np.float32),
        ids_P=np.empty(0, np.int64),
    )
    write_proposals(store, replace(found, detector=replace(DETECTOR, name="tracked"), tracks=tracks))
    try:
        annotated, tracked, by_boxes = (predict(engine, name) for name in (None, "tracked", "toy"))
    finally:
        (store.proposals_dir("toy", "test") / "tracked.h5").unlink()
    assert all(item.persons_N is None for item in annotated + by_boxes)
    for item, other in zip(annotated, tracked, strict=True):
        np.testing.assert_array_equal(other.scores_NC, item.scores_NC)
        np.testing.assert_array_equal(other.persons_N, people[item.key].persons_N + 1)
    assert any((item.scores_NC != other.scores_NC).any() for item, other in zip(annotated, by_boxes, strict=True))


@each_run
def test_without_neighbours_nobody_is_found_around(trained, engine, run_id) -> None:
    store = trained[0]
    people = truth(store)
    requests = [asking(key, people, reach=0, run_id=run_id) for key, found in people.items() if len(found.boxes_N4)]
    predictor = Predictor.load(store.runs_dir / run_id, device="cpu")
    blind = [BoxesOfKeyFrame(key=key, boxes_N4=found.boxes_N4) for key, found in people.items() if len(found.boxes_N4)]
    expected = list(predictor.predict(open_feature_set(store, "toy", "test"), blind))
    for item, found in zip(expected, recognize(engine, *requests), strict=True):
        np.testing.assert_allclose(found, item.scores_NC, rtol=1e-5)
    seeing = np.concatenate([item.scores_NC for item in predict(engine, run_id=run_id)])
    assert not np.allclose(np.concatenate([item.scores_NC for item in expected]), seeing, rtol=1e-3)


def test_people_alone_are_followed_too(trained, engine) -> None:
    """The layout `rows` shows each annotated person alone; who it is elsewhere stays known by the id."""
    people, rows = truth(trained[0]), predict(engine, layout="rows")
    for item in rows[:4]:
        found = []
        for person in range(len(item.boxes_N4)):
            alone = people[item.key].only(np.arange(len(item.boxes_N4)) == person)
            found += recognize(engine, asking(item.key, {**people, item.key: alone}))
        np.testing.assert_allclose(np.concatenate(found), item.scores_NC, rtol=1e-5)


@each_run
def test_the_python_api_finds_people_in_the_boxes_that_it_is_given(trained, engine, run_id) -> None:
    store = trained[0]
    opened = stal.open_store(store.root)
    head = stal.load_head(opened.run(run_id), checkpoint="latest", device="cpu")
    boxes = {key: found.boxes_N4 for key, found in truth(store).items() if len(found.boxes_N4)}
    scored = head.score(opened.features("toy", "test"), boxes)
    for mine, theirs in zip(scored.key_frames, predict(engine, "toy", run_id), strict=True):
        np.testing.assert_allclose(mine.scores_NC, theirs.scores_NC, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"time_ms": 3000}, "neighbours has video0,0003 for key frame video0,0000, but the head looks at 2 key frames"),
        ({"time_ms": 1400}, None),
        ({"time_ms": 1500}, "neighbours has video0,0001.5 for key frame"),
        ({"boxes": [pb.Box(x1=0.5, x2=0.2, y2=1)]}, "must be x1,y1,x2,y2"),
        ({"boxes": [pb.Box(x1=float("nan"), x2=0.2, y2=1)]}, "must be x1,y1,x2,y2"),
    ],
)
def test_neighbours_are_checked(trained, engine, change, text) -> None:
    people = {key: found for key, found in truth(trained[0]).items() if key == KeyFrame("video0", 0)}
    request = asking(KeyFrame("video0", 0), people)
    box = [pb.Box(x2=0.5, y2=0.5)]
    request.neighbours.append(pb.KeyFramePeople(**{"time_ms": 1000, "boxes": box} | change))
    error = NotFoundError if text is None else InputError
    with pytest.raises(error, match=text or "Key frame video0,0001.4 is not in the feature set"):
        recognize(engine, request)


def test_a_model_says_how_far_it_looks(trained) -> None:
    models = {item.run_id: messages.from_model(item) for item in list_models(trained[0])}
    assert [(models[name].neighbours, models[name].neighbour_ms, models[name].bank_s) for name in RUNS] == [
        (2, 1000, 0),
        (0, 1000, 2),
        (2, 1000, 2),
    ]


def test_a_bank_takes_all_key_frames_within_its_reach_and_no_other(trained, engine) -> None:
    people = {key: found for key, found in truth(trained[0]).items() if key == KeyFrame("video0", 0)}
    request = asking(KeyFrame("video0", 0), people, run_id="banked")
    request.neighbours.append(pb.KeyFramePeople(time_ms=3000, boxes=[pb.Box(x2=0.5, y2=0.5)]))
    with pytest.raises(InputError, match=r"video0,0003 .* the head looks at all key frames within 2 s; leave out"):
        recognize(engine, request)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([1] * 201, "201 key frames with 201 boxes"),
        ([500] * 10 + [1], "11 key frames with 5001 boxes"),
    ],
)
def test_the_work_of_a_call_is_bounded(given, text) -> None:
    request = pb.RecognizeRequest(video="video0", boxes=[pb.Box(x2=1, y2=1)])
    for place, count in enumerate(given, start=1):
        request.neighbours.append(pb.KeyFramePeople(time_ms=place, boxes=[pb.Box(x2=1, y2=1)] * count))
    with pytest.raises(InputError, match=text):
        messages.to_recognize_query(request)


def test_the_checkpoint_says_how_far_it_looks_and_a_resumed_run_must_agree(trained) -> None:
    store, run_dir = trained
    shapes = load_checkpoint(run_dir.checkpoint("latest")).shapes
    assert shapes.neighbours == 2
    assert FeatureShapes.from_dict(shapes.to_dict()) == shapes
    before = {name: value for name, value in shapes.to_dict().items() if name != "neighbours"}
    assert FeatureShapes.from_dict(before) == replace(shapes, neighbours=0)
    changed = RunDir(run_dir.root.with_name("changed"))
    shutil.copytree(run_dir.root, changed.root)
    make_run(store.root, "changed", [*SEEING, "data.neighbours=1"])
    with pytest.raises(ConflictError, match=r"data\.neighbours: 2 / 1"):
        Run(changed, Ranks())


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["data.neighbours=1"], "data.neighbours is 1, but the head acar sees no neighbouring key frames; .* relation"),
        ([*SEEING, "data.layout=rows"], "data.neighbours is 2, which needs data.layout: key_frames"),
        (
            [*SEEING, "training.backbone=slowfast", "training.backbone_weights=random:0"],
            "data.neighbours is 2, but training.backbone is slowfast",
        ),
        (["data.neighbours=6"], "data.neighbours"),
        (["data.bank_s=1"], "data.bank_s is 1, but the head acar has no feature bank; .* relation"),
        ([*BANKED, "data.layout=rows"], "data.bank_s is 2, which needs data.layout: key_frames"),
        (
            [*BANKED, "training.backbone=slowfast", "training.backbone_weights=random:0"],
            "data.bank_s is 2, but training.backbone is slowfast",
        ),
        ([*BANKED, "data.boxes=both"], "boxes is both and bank_s is 2"),
        (["data.bank_s=61"], "data.bank_s"),
    ],
)
def test_a_recipe_that_cannot_use_neighbours_is_refused(overrides, text) -> None:
    with pytest.raises(InputError, match=text):
        parse_recipe(ACAR, overrides)


def test_neighbours_that_no_key_frame_has_are_refused(toy_store) -> None:
    with pytest.raises(InputError, match=r"no key frame of toy/train has another one 300 ms .*; mostly 1000 ms lie"):
        open_inputs(parse_recipe(ACAR, [*SEEING, "data.neighbour_ms=300"]), toy_store)
    assert isinstance(open_inputs(parse_recipe(ACAR, SEEING), toy_store).train, LabelledFeatures)
