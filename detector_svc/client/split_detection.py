"""Proposals for a split: every key frame once through the service, boxes into the store."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.proposal_store import DetectorSpec, Proposals, write_proposals
from cache.split_store import publish_split
from cache.store import Store
from detector_svc.client.connection import DetectorInfo
from detector_svc.client.detector_client import DetectorClient, ProposedSplit
from detector_svc.client.kept_answers import KeptAnswers, image_digest
from detector_svc.detections import FrameDetections
from stal_data.clips import key_frame_image
from stal_data.dataset import Split
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from stal_data.names import check_name
from svc_common.errors import ServiceError

Progress = Callable[[int, int], None]
"""Called with key frames done and key frames in all."""


@dataclass(frozen=True, kw_only=True)
class DetectReport:
    """What was written."""

    path: Path
    detector: DetectorSpec
    key_frames: int
    boxes: int
    without_people: int
    """Key frames without a single box."""


async def detect_split(
    split: Split, store: Store, client: DetectorClient, *, name: str | None = None, progress: Progress | None = None
) -> DetectReport:
    """Send the key frames' images, write the proposals and publish the split.

    name: what the proposals are filed under; None takes the service's name.
    """
    info = await client.info()
    by_id = {str(item.key): item for item in split.key_frames}
    total = len(by_id)
    folder = store.proposals_dir(split.dataset, split.name)
    kept = KeptAnswers(folder / f".{check_name('--name', name or info.name)}.unfinished.npz", info.model)
    found: dict[KeyFrame, FrameDetections] = {}
    failed: list[str] = []
    digests: dict[str, int] = {}

    def show() -> None:
        if progress is not None:
            progress(len(found) + len(failed), total)

    async def frames() -> AsyncIterator[tuple[str, bytes]]:
        for frame_id, item in by_id.items():
            image = await asyncio.to_thread(key_frame_image, split.media, item)
            digests[frame_id] = digest = image_digest(image)
            if (answer := kept.get(item.key, digest)) is not None:
                found[item.key] = answer
                show()
            else:
                yield frame_id, image

    try:
        async for frame_id, answer in client.detect(frames()):
            key = by_id[frame_id].key
            if isinstance(answer, str):
                failed.append(answer)
            else:
                found[key] = answer
                kept.add(key, digests[frame_id], answer)
            show()
    except ServiceError as error:
        raise type(error)(
            f"{error}\n{len(found)} of {total} key frames have their answers, which are kept: the same command goes on "
            "with the rest."
        ) from error
    finally:
        kept.save()
    if failed:
        raise InputError(
            f"{len(failed)} of {total} key frames could not be used, so nothing was written: {' '.join(failed[:5])}"
            f"{' ...' if len(failed) > 5 else ''} Repair the frames or exclude them."
        )
    report = _write(store, split.dataset, split.name, found, info, name)
    publish_split(store, split)
    kept.remove()
    return report


async def propose_split(
    dataset: str,
    split: str,
    store: Store,
    client: DetectorClient,
    *,
    name: str | None = None,
    progress: Progress | None = None,
) -> DetectReport:
    """Let the service read the frames itself and write the proposals. dataset: folder below its data root."""
    info = await client.info()
    head: ProposedSplit | None = None
    found: dict[KeyFrame, FrameDetections] = {}
    async for event in client.propose(dataset, split):
        if isinstance(event, ProposedSplit):
            head = event
            continue
        key, detections = event
        found[key] = detections
        if progress is not None and head is not None:
            progress(len(found), head.key_frames)
    if head is None or len(found) != head.key_frames:
        raise ServiceError(f"The detector service ended after {len(found)} of {head and head.key_frames} key frames.")
    return _write(store, head.dataset, head.split, found, info, name)


def _write(
    store: Store,
    dataset: str,
    split: str,
    found: Mapping[KeyFrame, FrameDetections],
    info: DetectorInfo,
    name: str | None,
) -> DetectReport:
    spec = DetectorSpec(
        name=name if name is not None else info.name,
        weights=info.weights,
        height=info.height,
        width=info.width,
        confidence=info.confidence,
        library=info.library,
    )
    keys = tuple(sorted(found))
    counts = [len(found[key]) for key in keys]
    proposals = Proposals(
        dataset=dataset,
        split=split,
        key_frames=keys,
        offsets_K1=np.cumsum([0, *counts], dtype=np.int64),
        boxes_N4=np.concatenate([np.empty((0, 4), np.float32), *(found[key].boxes_N4 for key in keys)]),
        scores_N=np.concatenate([np.empty(0, np.float32), *(found[key].scores_N for key in keys)]),
        detector=spec,
    )
    path = write_proposals(store, proposals)
    return DetectReport(
        path=path, detector=spec, key_frames=len(keys), boxes=sum(counts), without_people=counts.count(0)
    )
