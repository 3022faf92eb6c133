"""Proposals for a split: every key frame once through the service, boxes into the store.

What was answered is kept until the split is complete, so that the same command goes on with the rest.
"""

import asyncio
import hashlib
import io
import json
import logging
import time
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.proposal_store import DetectorSpec, Proposals, write_proposals
from cache.split_store import publish_split
from cache.store import Store
from detector_svc.client.detector_client import DetectorClient, model_of
from detector_svc.detections import FrameDetections
from protos.generated import detector_pb2 as pb
from stal_data.clips import key_frame_image
from stal_data.dataset import Split
from stal_data.errors import InputError
from stal_data.files import write_atomically
from stal_data.keyframes import KeyFrame
from stal_data.names import check_name
from svc_common.errors import ServiceError

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with key frames done and key frames in all."""
_SAVE_EVERY_S = 30.0


async def detect_split(
    split: Split, store: Store, client: DetectorClient, *, name: str | None = None, progress: Progress = lambda *_: None
) -> tuple[Path, Proposals]:
    """Send the key frames' images, write the proposals and publish the split; return the file, and what is in it.

    name: what the proposals are filed under; None takes the service's name.
    """
    info = await client.info()
    name = check_name("--name", info.name if name is None else name)
    items = {str(item.key): item for item in split.key_frames}
    kept = KeptAnswers(store.proposals_dir(split.dataset, split.name) / f".{name}.unfinished.npz", model_of(info))
    found: dict[KeyFrame, FrameDetections] = {}
    failed: list[str] = []
    digests: dict[str, int] = {}

    async def frames() -> AsyncIterator[tuple[str, bytes]]:
        for frame_id, item in items.items():
            image = await asyncio.to_thread(key_frame_image, split.media, item)
            digests[frame_id] = int.from_bytes(hashlib.blake2b(image, digest_size=8).digest(), "little")
            if (answer := kept.get(item.key, digests[frame_id])) is None:
                yield frame_id, image
            else:
                found[item.key] = answer
                progress(len(found) + len(failed), len(items))

    try:
        async with aclosing(client.detect(frames())) as answers:
            async for frame_id, answer in answers:
                if isinstance(answer, str):
                    failed.append(answer)
                else:
                    found[items[frame_id].key] = answer
                    kept.add(items[frame_id].key, digests[frame_id], answer)
                progress(len(found) + len(failed), len(items))
    except ServiceError as error:
        raise type(error)(
            f"{error}\n{len(found)} of {len(items)} key frames have their answers, which are kept: the same command "
            "goes on with the rest."
        ) from error
    finally:
        kept.save()
    if failed:
        raise InputError(
            f"{len(failed)} of {len(items)} key frames could not be used, so nothing was written: "
            f"{' '.join(failed[:5])}{' ...' if len(failed) > 5 else ''} Repair the frames or exclude them."
        )
    written = _write(store, split.dataset, split.name, found, info, name)
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
    boxes_N4, scores_N = _joined([found[key] for key in keys])
    proposals = Proposals(
        dataset=dataset,
        split=split,
        key_frames=keys,
        offsets_K1=np.cumsum([0, *counts], dtype=np.int64),
        boxes_N4=boxes_N4,
        scores_N=scores_N,
        detector=spec,
    )
    return write_proposals(store, proposals), proposals


class KeptAnswers:
    """Answers by key frame: one file of arrays, replaced as a whole, which stays on this machine.

    An answer counts again only for the same detector and the same image bytes.
    """

    def __init__(self, path: Path, model: Mapping[str, str | float]) -> None:
        """model: what decides about the answers. Those of another one, or in a damaged file, are left out."""
        self._path = path
        self._head = json.dumps({"version": 2, "model": dict(model)}, sort_keys=True)
        self._answers: dict[KeyFrame, tuple[int, FrameDetections]] = {}
        self._saved_at = time.monotonic()
        try:
            self._answers = self._load() if path.exists() else {}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            log.warning("The kept answers in '%s' cannot be read (%s); starting anew.", path, error)

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: KeyFrame, digest: int) -> FrameDetections | None:
        """The answer to the key frame's image of that digest, if there is one."""
        kept, found = self._answers.get(key, (None, None))
        return found if kept == digest else None

    def add(self, key: KeyFrame, digest: int, found: FrameDetections) -> None:
        """Note an answer; once in a while all are written."""
        self._answers[key] = (digest, found)
        if time.monotonic() - self._saved_at >= _SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Write what there is."""
        self._saved_at = time.monotonic()
        if not self._answers:
            return
        boxes_N4, scores_N = _joined([found for _, found in self._answers.values()])
        content = io.BytesIO()
        np.savez_compressed(
            content,
            head=np.array(self._head),
            videos=np.array([key.video for key in self._answers]),
            times_ms=np.array([key.time_ms for key in self._answers], np.int64),
            digests=np.array([digest for digest, _ in self._answers.values()], np.uint64),
            counts=np.array([len(found) for _, found in self._answers.values()], np.int64),
            boxes=boxes_N4,
            scores=scores_N,
        )
        write_atomically(self._path, content.getvalue())

    def remove(self) -> None:
        """Delete the file: the split is finished."""
        self._path.unlink(missing_ok=True)

    def _load(self) -> dict[KeyFrame, tuple[int, FrameDetections]]:
        with self._path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if str(arrays["head"]) != self._head:
                return {}
            ends = np.cumsum(arrays["counts"])[:-1]
            columns = [arrays[name].tolist() for name in ("videos", "times_ms", "digests")]
            boxes, scores = np.split(arrays["boxes"], ends), np.split(arrays["scores"], ends)
            return {
                KeyFrame(video, time_ms): (digest, FrameDetections(boxes_N4=boxes_N4, scores_N=scores_N))
                for video, time_ms, digest, boxes_N4, scores_N in zip(*columns, boxes, scores, strict=True)
            }


def _joined(found: Sequence[FrameDetections]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """All boxes [N, 4], and all scores [N]."""
    return (
        np.concatenate([np.empty((0, 4), np.float32), *(answer.boxes_N4 for answer in found)]),
        np.concatenate([np.empty(0, np.float32), *(answer.scores_N for answer in found)]),
    )
