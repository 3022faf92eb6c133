"""`stal-cli detect`: person proposals of a split through the detector service."""

import logging
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from cache.store import Store
from cli.commands.detect_import import check_options, import_boxes, import_options
from cli.ui.options import replica_options
from cli.ui.params import LONGEST_S, Real
from cli.ui.progress import counted
from cli.ui.sigterm import run_until_sigterm
from stal_data.amounts import amount
from stal_data.media.timeline import FPS
from svc_common.config import ClientConfig

_TRACK_FPS = 5.0


@click.command()
@click.argument("dataset")
@click.option("--split", required=True, help="Split of the data set, such as test.")
@click.option("--store", required=True, help="Folder or s3:// URL of the store; made when missing.")
@click.option("--name", help="What the proposals are filed under; default: the detector's name; --import needs it.")
@click.option(
    "--server-side",
    is_flag=True,
    help="The service reads the frames: DATASET is a folder below its --data-root. The split is not published.",
)
@click.option("--track", is_flag=True, help="Also find out who is who from frame to frame: a track id for each box.")
@click.option(
    "--detect-fps",
    type=Real(0, FPS, min_open=True),
    help=f"With --track: frames a second to detect in, at least, between key frames.  [default: {_TRACK_FPS:g}]",
)
@click.option("--window", type=click.IntRange(1, 1000), default=24, show_default=True, help="Frames in flight.")
@click.option(
    "--timeout-s", type=Real(0.1, LONGEST_S), default=60.0, show_default=True, help="Longest wait for one answer."
)
@import_options
@replica_options("detector")
def detect(
    clients: tuple[ClientConfig, ...],
    dataset: str,
    split: str,
    store: str,
    name: str | None,
    server_side: bool,
    track: bool,
    detect_fps: float | None,
    window: int,
    timeout_s: float,
    files: tuple[Path, ...],
    **import_settings: Any,
) -> None:
    """Find the people in every key frame of a split of DATASET and write them into the store.

    Each key frame goes through the detector once; with --track, frames between key frames do, too. The split is
    published under the store, so that the machines that train and predict need nothing but the store.

    With --import, the boxes are those of files: COCO's results (a list of image_id, category_id, bbox and score, maybe
    track_id), a CSV of AVA's person boxes (video, time, box, label or nothing, confidence), MOT text (VIDEO.txt, or a
    folder of such files), a pickle of mmaction2's proposals, or a published detector pickle. Boxes on numbered frames
    count where a frame is nearest to a key frame. Track ids are kept. Where elements of a file repeat a box, it is kept
    once. Scores that a file lacks are unknown. NAME.import.json beside the proposals says what was merged.

    \b
    Examples:
      stal-cli detect data --split test --store store --detector 127.0.0.1:50051
      stal-cli detect chaotic-world --split test --store store --detector gpu1:50051 --server-side \\
          --tls-ca ca.pem --token-file token
      stal-cli detect data --split test --store store --detector 127.0.0.1:50051 --track --detect-fps 8
      stal-cli detect street --split all --store store --import results.json --images frames.json --name rtdetr
      stal-cli detect street --split all --store store --import mot/a.txt --import mot/b.txt --name bytetrack
    """
    check_options(importing=bool(files))
    if files:
        if name is None:
            raise click.UsageError("--import needs --name, what the proposals are filed under")
        import_boxes(files, dataset, split, store, {"name": name, **import_settings})
        return
    if not clients:
        raise click.UsageError("Missing option '--detector' (or --import FILE, for boxes that are found already)")
    if detect_fps is not None and not track:
        raise click.UsageError("--detect-fps has no effect without --track; add --track")
    if track and server_side:
        raise click.UsageError("--track needs the frames between key frames here; leave out --server-side")
    from cache.proposal_store import Proposals
    from detector_svc.client.detector_client import DetectorClient, DetectorClientConfig
    from detector_svc.client.split_detection import detect_split, propose_split
    from detector_svc.client.tracking import PersonTracker
    from stal_data.dataset import Dataset

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    opened = None if server_side else Dataset.open(Path(dataset)).split(split)
    tracker = PersonTracker(detect_fps or _TRACK_FPS) if track else None
    config = DetectorClientConfig(services=clients, window=window, timeout_s=timeout_s)

    async def run() -> tuple[Path, Proposals]:
        with counted("detecting", unit="frames" if track else "key frames") as update:
            detector = DetectorClient(config)
            target = Store.open(store, create=True)
            if opened is None:
                return await propose_split(dataset, split, target, detector, name=name, progress=update)
            return await detect_split(opened, target, detector, name=name, tracker=tracker, progress=update)

    start = time.monotonic()
    path, found = run_until_sigterm(run())
    counts, detector = np.diff(found.offsets_K1), found.detector
    click.echo(
        f"{path}: {amount(int(counts.sum()), 'box')} on {amount(len(counts), 'key frame')}, {(counts == 0).sum()} of "
        f"them without people, by '{detector.name}' at confidence {detector.confidence:.2f} in "
        f"{time.monotonic() - start:.1f} s"
    )
    if (tracks := found.tracks) is not None:
        click.echo(
            f"Boxes in a track, by {tracks.tracker}: {(tracks.ids_N > 0).sum()}; also filed: "
            f"{amount(len(tracks.boxes_P4), 'box')} on {amount(len(tracks.frames), 'frame')} between key frames"
        )
