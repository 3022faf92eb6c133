"""Live recognition: frames of a source through detector and recognizer, and what was seen to the outputs."""

import asyncio
import io
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cli.workflow.predictions import MIN_SCORE
from cli.workflow.streaming.live_frames import FrameBuffer, LiveFrame
from cli.workflow.streaming.outputs import Output, Record
from cli.workflow.streaming.pipeline import SeenKeyFrame, only_run, seen_key_frames
from cli.workflow.streaming.reader import LiveReader
from detector_svc.client.detector_client import DetectorClient
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from recognizer_svc.video.client import Sending, VideoRequest
from recognizer_svc.video.timeline import VideoTime, reach_ms
from stal_data.media.timeline import FPS

_MAX_OVERDUE = 24
"""Key frames that wait for their answers only; the recognizer's client takes up to 32."""
_REPORT_S = 60.0
_MAX_LAGS = 10_000
_PAGE_PIXELS = 960
_PAGE_QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class LiveSettings:
    """name: of the source, in records. max_lag_s: how long an answer may be due. min_score: of the actions in records;
    None for the model's thresholds, and MIN_SCORE where it has none. give_up_after_s: without a picture.
    """

    name: str
    run_id: str
    checkpoint: str = ""
    every_ms: int = 1000
    max_lag_s: float = 2.0
    min_score: float | None = None
    give_up_after_s: float = 300.0
    sending: Sending = "resized"


class Lags:
    """Seconds from the arrival of key frames' pictures to their answers; of the latest 10,000."""

    def __init__(self) -> None:
        self._all: deque[float] = deque(maxlen=_MAX_LAGS)
        self.count = 0

    def add(self, lag_s: float) -> None:
        self._all.append(lag_s)
        self.count += 1

    def percentiles(self, latest: int = _MAX_LAGS) -> dict[str, float]:
        """Return p50, p95 and p99 of so many of the latest; nothing where there is none."""
        if not latest or not self._all:
            return {}
        found = np.percentile(list(self._all)[-latest:], (50, 95, 99))
        return {f"p{share}": round(float(value), 3) for share, value in zip((50, 95, 99), found, strict=True)}


class LiveRecognition:
    """Use once."""

    def __init__(
        self,
        settings: LiveSettings,
        *,
        reader: LiveReader,
        buffer: FrameBuffer,
        detector: DetectorClient,
        outputs: Sequence[Output],
        lags: Lags,
        note: Callable[[str], None],
        now: Callable[[], float],
    ) -> None:
        """note: told of the head at the beginning, and of the lags each minute. now: as the reader's clock."""
        self._settings, self._reader, self._buffer = settings, reader, buffer
        self._detector, self._outputs, self._lags = detector, outputs, lags
        self._note, self._now = note, now
        self._pictures = any(output.pictures for output in outputs)
        self._pending: dict[int, tuple[LiveFrame, bytes | None]] = {}
        self._labels: Sequence[str] = ()
        self._least: Sequence[float] = ()
        self._needed_ms = 0
        """How long after its picture a key frame has all that its answer needs."""
        self._late = self._reported = 0
        self._report_at_s = now() + _REPORT_S

    @property
    def dropped(self) -> int:
        """Key frames that were not scored, so that the others are not late."""
        return self._late + self._reader.dropped

    @property
    def waiting(self) -> int:
        """Key frames without an answer."""
        return len(self._pending)

    async def run(self, recognizer: RecognizerClient) -> None:
        """Score until the source ends; what the source or a service raises is raised after the answers before it."""
        run_id = self._settings.run_id or await only_run(recognizer)
        while True:
            video = VideoRequest(
                run_id=run_id,
                checkpoint=self._settings.checkpoint,
                time=VideoTime(video=self._settings.name[:512]),
                sending=self._settings.sending,
            )
            keys: dict[int, int] = {}
            seen = seen_key_frames(
                self._frames(keys),
                lambda number, keys=keys: keys.pop(number, None),  # type: ignore[misc]
                detector=self._detector,
                recognizer=recognizer,
                video=video,
            )
            async with aclosing(seen) as answers:
                async for answer in answers:
                    if isinstance(answer, pb.VideoHeader):
                        self._open(answer)
                    else:
                        self._answered(answer)
            if await self._buffer.first() is None:
                return

    def _open(self, header: pb.VideoHeader) -> None:
        model = header.model
        reach = reach_ms(model.neighbours, model.neighbour_ms, model.bank_s)
        self._needed_ms = 1000 * header.clip_span // (2 * FPS) + (reach + self._settings.every_ms if reach else 0)
        if not self._labels:
            for text in (f"{self._settings.name}: scored by {model.run_id} {model.checkpoint}", *header.notes):
                self._note(text)
        self._labels = [label.name for label in model.labels]
        least = self._settings.min_score
        self._least = [header.thresholds.get(label.id, MIN_SCORE) if least is None else least for label in model.labels]

    async def _frames(self, keys: dict[int, int]) -> AsyncGenerator[tuple[int, NDArray[np.uint8]]]:
        """The frames of one stream. keys: gets the times of the key frames to score, by frame number."""
        self._reader.start()
        stream = None
        while (frame := await self._buffer.first(failing=False)) is not None and stream in (None, frame.stream):
            if not self._buffer.take(frame):
                continue
            stream = frame.stream
            if frame.key_ms is not None:
                if self._behind(frame.key_ms):
                    self._late += 1
                else:
                    keys[frame.number] = frame.key_ms
                    self._pending[frame.key_ms] = (frame, await self._picture(frame))
            yield frame.number, frame.picture

    async def _picture(self, frame: LiveFrame) -> bytes | None:
        return await asyncio.to_thread(_jpeg, frame.picture) if self._pictures else None

    def _behind(self, key_ms: int) -> bool:
        overdue = [time_ms for time_ms in self._pending if time_ms + self._needed_ms <= key_ms]
        longest_ms = 1000 * self._settings.max_lag_s + self._needed_ms
        return bool(overdue) and (len(overdue) >= _MAX_OVERDUE or key_ms - overdue[0] > longest_ms)

    def _answered(self, seen: SeenKeyFrame) -> None:
        scored = seen.scored
        frame, picture = self._pending.pop(scored.key.time_ms)
        lag_s = self._now() - frame.arrived_s
        self._lags.add(lag_s)
        record: Record = {
            "source": self._settings.name,
            "time": frame.arrived.isoformat(timespec="milliseconds"),
            "source_ms": frame.source_ms,
            "people": [
                {
                    "box": [round(side, 4) for side in box],
                    "confidence": round(confidence, 4),
                    "actions": self._actions(scores_C),
                }
                for box, confidence, scores_C in zip(
                    scored.boxes_N4.tolist(), seen.confidence_N.tolist(), scored.scores_NC, strict=True
                )
            ],
            "lag_s": round(lag_s, 3),
            "dropped": self.dropped,
        }
        for output in self._outputs:
            output.send(record, picture)
        if self._now() >= self._report_at_s:
            self._report_at_s = self._now() + _REPORT_S
            self._note(f"last minute: {self.summary(self._lags.count - self._reported)}")
            self._reported = self._lags.count

    def _actions(self, scores_C: NDArray[np.float32]) -> dict[str, float]:
        best = np.argsort(-scores_C, kind="stable")
        return {self._labels[c]: round(float(scores_C[c]), 4) for c in best if scores_C[c] >= self._least[c]}

    def summary(self, latest: int | None = None) -> str:
        """Return one line. latest: how many of the latest key frames it is of; default: all."""
        count = self._lags.count if latest is None else latest
        lags = self._lags.percentiles(count)
        texts = [f"{count} key frames scored"]
        if lags:
            texts.append("from picture to answer " + ", ".join(f"{name} {value:.2f} s" for name, value in lags.items()))
        texts.append(f"{self.dropped} dropped in all")
        if self._reader.cuts or self._reader.jumps:
            texts.append(f"source cut {self._reader.cuts} times, clock or size changed {self._reader.jumps} times")
        if latest is None and self._pending:
            texts.append(f"{len(self._pending)} without an answer")
        return "; ".join(texts)


def _jpeg(picture_HW3: NDArray[np.uint8]) -> bytes:
    image, file = Image.fromarray(picture_HW3), io.BytesIO()
    image.thumbnail((_PAGE_PIXELS, _PAGE_PIXELS))
    image.save(file, format="jpeg", quality=_PAGE_QUALITY)
    return file.getvalue()
