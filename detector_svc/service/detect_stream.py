"""One Detect stream on the server: reads within a window, answers in the order in which frames are done."""

import asyncio
import time
from collections.abc import AsyncIterator

from detector_svc.detections import to_message
from detector_svc.service.micro_batcher import WINDOW, MicroBatcher
from protos.generated import detector_pb2 as pb
from stal_data.errors import InputError
from svc_common.fair_queue import Flow
from svc_common.request_stream import IDLE_S, RequestStream

_WINDOW_BYTES = 32 << 20  # 32 MiB
"""Of encoded images without an answer; beyond it the service stops reading, too."""
MAX_ID_LENGTH = 512


class DetectStream:
    """Use once: iterate over `answers`, then `close` in any case."""

    def __init__(
        self, batcher: MicroBatcher, flow: Flow, *, time_remaining_s: float | None, idle_s: float = IDLE_S
    ) -> None:
        """flow: the place that the stream holds in the batcher."""
        self._batcher, self._flow = batcher, flow
        self._deadline = None if time_remaining_s is None else time.monotonic() + time_remaining_s
        self._requests = RequestStream[pb.DetectRequest](idle_s=idle_s)
        self._window = asyncio.Semaphore(WINDOW)
        self._bytes, self._freed = 0, asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._answers: asyncio.Queue[pb.DetectResponse | None] = asyncio.Queue()
        self._reader: asyncio.Task[None] | None = None

    def end(self, error: Exception) -> None:
        """Read no more frames, answer the accepted ones, then end the stream with the error. The first error counts."""
        self._requests.end(error)

    async def answers(self, requests: AsyncIterator[pb.DetectRequest]) -> AsyncIterator[pb.DetectResponse]:
        """Yield one answer per frame; raises what ended the stream early, after the accepted frames' answers."""
        self._reader = asyncio.create_task(self._read(requests))
        while (answer := await self._answers.get()) is not None:
            yield answer
            # Only now: a client that sends and never reads must not pile up answers here.
            self._window.release()
        if self._requests.error is not None:
            raise self._requests.error

    async def close(self) -> None:
        """Cancel what is still running."""
        tasks = [*self._tasks.values(), *([self._reader] if self._reader else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[pb.DetectRequest]) -> None:
        try:
            while (frame := await self._next(requests)) is not None:
                self._accept(frame)
        except Exception as error:  # noqa: BLE001 - raised to the client by `answers`
            self.end(error)
        await asyncio.gather(*self._tasks.values())
        self._answers.put_nowait(None)

    async def _next(self, requests: AsyncIterator[pb.DetectRequest]) -> pb.DetectRequest | None:
        await self._window.acquire()
        while self._bytes >= _WINDOW_BYTES:
            self._freed.clear()
            await self._freed.wait()
        return await self._requests.next(requests)

    def _accept(self, frame: pb.DetectRequest) -> None:
        name = frame.frame_id
        if not 0 < len(name) <= MAX_ID_LENGTH:
            raise InputError(f"frame_id has {len(name)} characters; it must have 1 to {MAX_ID_LENGTH}.")
        if name in self._tasks:
            raise InputError(f"frame_id '{name}' is used by another frame that has no answer yet; ids must be unique.")
        self._bytes += len(frame.image)
        self._tasks[name] = asyncio.create_task(self._answer(name, frame.image))

    async def _answer(self, name: str, image: bytes) -> None:
        try:
            found = await self._batcher.detect(image, name, self._flow, deadline=self._deadline)
            answer = pb.DetectResponse(frame_id=name, detections=to_message(found))
        except InputError as error:
            answer = pb.DetectResponse(frame_id=name, error=str(error))
        except Exception as error:  # noqa: BLE001 - passed deadline, failed model: not this frame's fault
            self.end(error)
            self._window.release()
            return
        finally:
            del self._tasks[name]
            self._bytes -= len(image)
            self._freed.set()
        self._answers.put_nowait(answer)
