"""The whole workflow over six hosts that share nothing but a bucket's URL, and the same on one: equal results."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cache.proposal_store import open_proposals
from cache.store import Store
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.training.checkpoint import load_checkpoint
from tests.network.hosts import Host, Network
from tests.network.services import BUCKET, copy_to, credentials, start_detector, start_recognizer

pytestmark = [pytest.mark.network, pytest.mark.timeout(600)]

PORT, MEETING_PORT = 50063, 29401
STORE = f"s3://{BUCKET}/workflow"
BACKBONE = ("--slowfast", "random:0", "--slowfast-preset", "tiny", "--rows-per-shard", 4)
HEAD = "head={kind: acar, reduce_channels: 16, context_channels: 12, depth: 1, dropout: 0.1}"
RECIPE = ("--set", HEAD, "--set", "training.epochs=3", "--set", "training.batch_clips=4")
TRAIN = ("train", "acar", *RECIPE, "--backend", "gloo", "--run-id", "both")
PREDICT = ("predict", "--run", "both", "--dataset", "synthetic", "--split", "test")
BOXES = ("proposals", "ground-truth")


def evaluate(host: Host) -> dict[str, object]:
    data = host.disk / "data" / "annotations"
    host.run(
        *("eval", "--predictions", host.disk / "ground-truth.csv", "--ground-truth", data / "test_gt.csv"),
        *("--label-map", data / "list_action.pbtxt", "--output", host.disk / "eval"),
    )
    return json.loads((host.disk / "eval" / "metrics.json").read_text())


def on_one_host(host: Host) -> dict[str, object]:
    """Everything on one machine, in a folder."""
    store, data = host.disk / "store", host.disk / "data"
    detector = start_detector(host)
    where = ("--detector", detector.address, *credentials(host))
    host.run("detect", data, "--split", "test", "--store", store, "--name", "tiny", *where)
    detector.stop(seconds=20)
    for split in ("train", "test"):
        host.run("precompute", data, "--split", split, "--store", store, *BACKBONE)
    host.run(*TRAIN, "--nproc-per-node", 2, "--store", store)
    for boxes in BOXES:
        host.run(*PREDICT, "--boxes", boxes, "--store", store, "--output", host.disk / f"{boxes}.csv")
    return evaluate(host)


def on_six_hosts(network: Network) -> dict[str, object]:
    """Driven from the laptop; the laptop has the videos, and so have the machines that precompute."""
    laptop, first, second = (network[name] for name in ("laptop", "recognizer-a", "recognizer-b"))
    data = laptop.disk / "data"

    detectors = [start_detector(network[name]) for name in ("detector-a", "detector-b")]
    where = ("--detector", ",".join(detector.address for detector in detectors), *credentials(laptop))
    laptop.run("detect", data, "--split", "test", "--store", STORE, "--name", "tiny", *where)
    for detector in detectors:
        detector.stop(seconds=20)

    for split in ("train", "test"):
        parts = [
            host.start("precompute", host.disk / "data", "--split", split, "--store", STORE, *BACKBONE, "--shard", part)
            for host, part in ((first, "1/2"), (second, "2/2"))
        ]
        for part in parts:
            finished = part.wait()
            assert finished.returncode == 0, finished
    laptop.run("cache", "verify", STORE)

    # Not the default ports: on these the recognizers of the other tests may still listen.
    recognizers = [start_recognizer(host, STORE, port=PORT) for host in (first, second)]
    shares = [
        laptop.start(
            *(*TRAIN, "--nnodes", 2, "--node-rank", rank, "--rdzv-endpoint", f"{first.name}:{MEETING_PORT}"),
            *("--recognizer", recognizer.address, *credentials(laptop)),
        )
        for rank, recognizer in enumerate(recognizers)
    ]
    for share in shares:
        finished = share.wait(seconds=240)
        assert finished.returncode == 0, finished
    where = ("--recognizer", recognizers[1].address, *credentials(laptop))
    for boxes in BOXES:
        laptop.run(*PREDICT, "--boxes", boxes, *where, "--output", laptop.disk / f"{boxes}.csv")
    for recognizer in recognizers:
        recognizer.stop(seconds=20)
    return evaluate(laptop)


def proposals_from(host: Host, folder: Path) -> Store:
    """What the host's mirror of the bucket holds, as a store of its own: the bucket is not reached from outside."""
    (mirror,) = (host.disk / "home" / ".cache" / "stal").glob(f"{BUCKET}-*/proposals/synthetic")
    shutil.copytree(mirror, folder / "proposals" / "synthetic")
    return Store.open(folder)


def test_six_hosts_get_what_one_gets(network: Network) -> None:
    laptop, alone = network["laptop"], network["alone"]
    laptop.run("dataset", "synth", laptop.disk / "data", "--train-videos", 4, "--test-videos", 2, "--seed", 0)
    copy_to(laptop.disk / "data", alone, network["recognizer-a"], network["recognizer-b"])
    apart, together = on_six_hosts(network), on_one_host(alone)

    ours = open_proposals(Store.open(alone.disk / "store"), "synthetic", "test", "tiny")
    theirs = open_proposals(proposals_from(laptop, laptop.disk / "copy"), "synthetic", "test", "tiny")
    assert ours.key_frames == theirs.key_frames
    np.testing.assert_array_equal(ours.offsets_K1, theirs.offsets_K1)
    np.testing.assert_array_equal(ours.boxes_N4, theirs.boxes_N4)
    assert len(ours.boxes_N4) > 0

    # Two ranks on two machines sum what two ranks on one do.
    mine = load_checkpoint(RunDir(alone.disk / "store" / "runs" / "both").checkpoint("latest"))
    (there,) = (network["recognizer-a"].disk / "home").rglob("runs/both")
    apart_weights = load_checkpoint(RunDir(there).checkpoint("latest")).head_state
    for name, tensor in mine.head_state.items():
        assert torch.equal(apart_weights[name], tensor), name

    for boxes in BOXES:
        files = [(host.disk / f"{boxes}.csv").read_bytes() for host in (alone, laptop)]
        assert files[0] == files[1]
        assert files[0]
    assert apart["best"] == together["best"]
    assert apart["best"]["mAP"] > 0
