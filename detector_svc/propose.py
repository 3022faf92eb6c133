"""Server side of Propose: key frames of a split whose media this machine sees, in order, through the batcher."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from concurrent.futures import Executor
from pathlib import Path

from detector_svc.batcher import MicroBatcher
from detector_svc.detections import FrameDetections
from detector_svc.key_images import key_frame_image
from stal_data.data_root import dataset_below
from stal_data.dataset import Split
from stal_data.errors import ConflictError
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame


def open_split(data_root: Path | None, dataset: str, split: str) -> Split:
    """Open a split of a data set below the root; a client's path never leads out of it."""
    if data_root is None:
        raise ConflictError(
            "The detector service has no data root, so it reads no data sets. Start it with --data-root, or let the "
            "client send the images (without --server-side)."
        )
    return dataset_below(data_root, dataset).split(split)


async def run_split(
    split: Split, batcher: MicroBatcher, *, window: int, readers: Executor
) -> AsyncGenerator[tuple[KeyFrame, FrameDetections]]:
    """Yield the detections of each key frame in the split's order; `window` of them are in flight."""
    loop = asyncio.get_running_loop()
    tasks: deque[asyncio.Task[tuple[KeyFrame, FrameDetections]]] = deque()

    async def detect(item: AnnotatedKeyFrame) -> tuple[KeyFrame, FrameDetections]:
        data = await loop.run_in_executor(readers, key_frame_image, split.media, item)
        return item.key, await batcher.detect(data, str(item.key), wait=True)

    try:
        for item in split.key_frames:
            if len(tasks) == window:
                yield await tasks.popleft()
            tasks.append(asyncio.create_task(detect(item)))
        while tasks:
            yield await tasks.popleft()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
