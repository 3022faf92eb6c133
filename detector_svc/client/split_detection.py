"""Proposals for a split: every key frame once through the service, boxes into the store.

What was answered is kept until the split is complete, so that the same command goes on with the rest.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from pathlib import Path

import numpy as np

from cache.proposal_store import DetectorSpec, Proposals, write_proposals
from cache.split_store import publish_split
from cache.store import Store
from cache.tracks import Tracks
from detector_svc.client.detector_client import DetectorClient, model_of
from detector_svc.client.kept_answers import KeptAnswers
from detector_svc.client.tracking import PersonTracker
from detector_svc.detections import FrameDetections, joined
from protos.generated import detector_pb2 as pb
from stal_data.clips import key_frame_image
from stal_data.dataset import Split
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from stal_data.names import check_name
from svc_common.errors import ServiceError

Progress = Callable[[int, int], None]
"""Called with frames done and frames in all."""


async def detect_split(
    split: Split,
    store: Store,
    client: DetectorClient,
    *,
    name: str | None = None,
    tracker: PersonTracker | None = None,
    progress: Progress = lambda *_: None,
) -> tuple[Path, Proposals]:
    """Send the key frames' images, write the proposals and publish the split; return the file, and what is in it.

    name: what the proposals are filed under; None takes the service's name.
    tracker: also send frames between the key frames, and file who is who in all of them.
    """
    info = await client.info()
    name = check_name("--name", info.name if name is None else name)
    keys, unit = {str(item.key): item.key for item in split.key_frames}, "key frames"
    images = {str(item.key): partial(key_frame_image, split.media, item) for item in split.key_frames}
    if tracker is not None:
        plan, unit = await asyncio.to_thread(tracker.plan, split), "frames"
        images = {frame.id: partial(split.media.encoded, frame.video, frame.number) for frame in plan}
    kept = KeptAnswers(store.proposals_dir(split.dataset, split.name) / f".{name}.unfinished.npz", model_of(info))
    found: dict[str, FrameDetections] = {}
    failed: list[str] = []
    digests: dict[str, int] = {}

    async def frames() -> AsyncIterator[tuple[str, bytes]]:
        for frame_id, read in images.items():
            image = await asyncio.to_thread(read)
            digests[frame_id] = int.from_bytes(hashlib.blake2b(image, digest_size=8).digest(), "little")
            if (answer := kept.get(frame_id, digests[frame_id])) is None:
                yield frame_id, image
            else:
                found[frame_id] = answer
                progress(len(found) + len(failed), len(images))

    try:
        async with aclosing(client.detect(frames())) as answers:
            async for frame_id, answer in answers:
                if isinstance(answer, str):
                    failed.append(answer)
                else:
                    found[frame_id] = answer
                    kept.add(frame_id, digests[frame_id], answer)
                progress(len(found) + len(failed), len(images))
    except ServiceError as error:
        raise type(error)(
            f"{error}\n{len(found)} of {len(images)} {unit} have their answers, which are kept: the same command "
            "goes on with the rest."
        ) from error
    finally:
        kept.save()
    if failed:
        raise InputError(
            f"{len(failed)} of {len(images)} {unit} could not be used, so nothing was written: "
            f"{' '.join(failed[:5])}{' ...' if len(failed) > 5 else ''} Repair the frames or exclude them."
        )
    tracks = None if tracker is None else await asyncio.to_thread(tracker.tracks, plan, found)
    written = _write(
        store, split.dataset, split.name, {key: found[frame] for frame, key in keys.items()}, info, name, tracks
    )
    publish_split(store, split)
    kept.remove()
    return written


async def propose_split(
    dataset: str,
    split: str,
    store: Store,
    client: DetectorClient,
    *,
    name: str | None = None,
    progress: Progress = lambda *_: None,
) -> tuple[Path, Proposals]:
    """Let the service read the frames itself, and write the proposals. dataset: folder below its data root."""
    info = await client.info()
    name = check_name("--name", info.name if name is None else name)
    head: pb.ProposeHeader | None = None
    found: dict[KeyFrame, FrameDetections] = {}
    async for event in client.propose(dataset, split):
        if isinstance(event, pb.ProposeHeader):
            head = event
        else:
            found[event[0]] = event[1]
            progress(len(found), head.key_frames if head else 0)
    if head is None or len(found) != head.key_frames:
        raise ServiceError(f"The detector service ended after {len(found)} of {head and head.key_frames} key frames.")
    return _write(store, head.dataset, head.split, found, info, name)


def _write(
    store: Store,
    dataset: str,
    split: str,
    found: Mapping[KeyFrame, FrameDetections],
    info: pb.GetInfoResponse,
    name: str,
    tracks: Tracks | None = None,
) -> tuple[Path, Proposals]:
    spec = DetectorSpec(
        name=name,
        weights=info.weights,
        height=info.image_height,
        width=info.image_width,
        confidence=info.confidence,
        library=info.library,
    )
    keys = tuple(sorted(found))
    counts = [len(found[key]) for key in keys]
    boxes_N4, scores_N = joined([found[key] for key in keys])
    proposals = Proposals(
        dataset=dataset,
        split=split,
        key_frames=keys,
        offsets_K1=np.cumsum([0, *counts], dtype=np.int64),
        boxes_N4=boxes_N4,
        scores_N=scores_N,
        detector=spec,
        tracks=tracks,
    )
    return write_proposals(store, proposals), proposals
