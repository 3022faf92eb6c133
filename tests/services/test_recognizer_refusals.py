"""What the recognizer refuses, each with a reason, and then goes on serving."""

import asyncio
import math

import grpc
import pytest
from google.protobuf.message import Message

from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from stal_data.errors import InputError, NotFoundError
from svc_common.errors import BusyError, ServiceError
from tests.recognizer.toy_store import ACAR
from tests.services.conftest import TRAINED, Trained
from tests.services.hostile import PATH_TRICKS, Caller

REFUSED = (InputError, NotFoundError)
BOX = pb.Box(x1=0.1, y1=0.1, x2=0.4, y2=0.5)


async def serves(client: RecognizerClient) -> None:
    assert TRAINED in {model.run_id for model in await client.list_models()}


SCENE = {"run_id": TRAINED, "dataset": "toy", "split": "train", "video": "v0", "time_ms": 1000, "boxes": [BOX]}
TRUTH = {"run_id": TRAINED, "dataset": "toy", "split": "train", "ground_truth": pb.GroundTruthBoxes()}


def with_tricks() -> list[tuple[str, Message]]:
    """The method and request of each call that takes a name, with each name that must not be taken."""
    calls: list[tuple[str, Message]] = []
    for trick in PATH_TRICKS:
        calls.append(("Train", pb.TrainRequest(run_id=trick, recipe=ACAR)))
        calls.append(("WatchJob", pb.WatchJobRequest(run_id=trick)))
        calls.append(("GetJob", pb.GetJobRequest(run_id=trick)))
        calls.append(("CancelJob", pb.CancelJobRequest(run_id=trick)))
        fields = ("run_id", "dataset", "split", "feature_set", "checkpoint")
        calls.extend(("Recognize", pb.RecognizeRequest(**SCENE | {field: trick})) for field in (*fields, "video"))
        calls.extend(("Predict", pb.PredictRequest(**TRUTH | {field: trick})) for field in fields)
        proposed = {"run_id": TRAINED, "dataset": "toy", "split": "train", "proposals": pb.ProposedBoxes(name=trick)}
        calls.append(("Predict", pb.PredictRequest(**proposed)))
    return calls


async def test_names_never_leave_the_store(trained: Trained) -> None:
    methods = pb.DESCRIPTOR.services_by_name["Recognizer"].methods_by_name
    runs, logged = set((trained.store.root / "runs").iterdir()), len(trained.service.log)
    with grpc.insecure_channel(trained.service.address) as channel:
        caller = Caller(channel)
        for name, request in with_tricks():
            code, text = await asyncio.to_thread(caller.call, methods[name], [request.SerializeToString()])
            assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND), (name, request, code, text)
    async with RecognizerClient(trained.service.client) as client:
        await serves(client)
    assert set((trained.store.root / "runs").iterdir()) == runs
    assert "Traceback" not in trained.service.log[logged:]


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("recipe", "overrides", "text"),
    [
        (BOMB, (), "aliases .* are not accepted"),
        (ACAR + BOMB + "run_name: *i\n", (), "."),
        ("[" * 50_000, (), "not YAML|mapping"),
        ("{" * 50_000, (), "not YAML|mapping"),
        ("data: &d\n  dataset: *d\n", (), "."),
        ("data: 2001-99-99\n", (), "."),
        ("x: " + "y" * 200_000, (), "characters; at most"),
        ("\0", (), "."),
        ("!!python/object/apply:os.system ['true']", (), "."),
        (ACAR, ("=",) * 2000, "overrides are more than"),
        (ACAR, ("head.depth=" + "[" * 50_000,), "is not a YAML value"),
        (ACAR, ("data.folder=../../etc",), "without '..'"),
        (ACAR, ("data.folder=/etc",), "without '..'"),
        (ACAR, ("training.init_head=../../../etc/passwd",), "without '..'"),
        (ACAR, ("data.dataset=../toy",), "data.dataset"),
        (ACAR, ("data.feature_set=../../x",), "feature"),
    ],
    ids=lambda value: str(value)[:25],
)
async def test_recipes_cost_nothing_and_leave_nothing(
    trained: Trained, recipe: str, overrides: tuple[str, ...], text: str
) -> None:
    async with RecognizerClient(trained.service.client) as client:
        with pytest.raises(REFUSED, match=f"(?s){text}") as caught:
            async for _ in client.train(pb.TrainRequest(run_id="other", recipe=recipe, overrides=overrides)):
                pass
        assert len(str(caught.value)) < 10_000
        await serves(client)
    assert not (trained.store.root / "runs" / "other").exists()


@pytest.mark.parametrize("endpoint", ["--help", "a b:1", "host", "host:port", "$(id):1", "h:1\n", "x" * 300 + ":1"])
async def test_rendezvous_endpoints_are_addresses(trained: Trained, endpoint: str) -> None:
    launch = pb.Launch(nproc_per_node=1, nnodes=2, rdzv_endpoint=endpoint, backend="gloo")
    async with RecognizerClient(trained.service.client) as client:
        with pytest.raises(InputError, match="rdzv_endpoint"):
            async for _ in client.train(pb.TrainRequest(run_id="other", recipe=ACAR, launch=launch)):
                pass


NAN, INFINITE = math.nan, math.inf


@pytest.mark.parametrize(
    "corners",
    [
        (NAN, 0, 1, 1),
        (0, 0, NAN, 1),
        (0, 0, INFINITE, 1),
        (-INFINITE, 0, 1, 1),
        (0.5, 0, 0.4, 1),
        (0, 0.5, 1, 0.4),
        (-0.1, 0, 0.5, 0.5),
        (0, 0, 1.5, 1),
        (3e38, 3e38, 3.4e38, 3.4e38),
    ],
)
async def test_boxes_are_finite_upright_and_inside(trained: Trained, corners: tuple[float, ...]) -> None:
    bad = pb.Box(**dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True)))
    scene = {"run_id": TRAINED, "dataset": "toy", "split": "train", "video": "v0", "time_ms": 1000}
    async with RecognizerClient(trained.service.client) as client:
        with pytest.raises(InputError, match=r"Box .* must be x1,y1,x2,y2"):
            await client.recognize(pb.RecognizeRequest(boxes=[BOX, bad], **scene))
        await serves(client)


async def test_too_many_boxes_and_too_large_messages(trained: Trained) -> None:
    scene = {"run_id": TRAINED, "dataset": "toy", "split": "train", "video": "v0", "time_ms": 1000}
    async with RecognizerClient(trained.service.client) as client:
        with pytest.raises(InputError, match="501 boxes were given, but must be 1 to 500"):
            await client.recognize(pb.RecognizeRequest(boxes=[BOX] * 501, **scene))
        with pytest.raises(InputError, match="0 boxes"):
            await client.recognize(pb.RecognizeRequest(**scene))
        with pytest.raises((InputError, BusyError, ServiceError), match="size limit"):
            await client.get_job("x" * (40 << 20))
        with pytest.raises(InputError, match="limit is -1"):
            await client.list_jobs(limit=-1)
        await serves(client)
