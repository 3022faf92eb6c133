"""The key frames of a video that have their answers, kept on this machine until all have: a killed command goes on."""

import base64
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cache.files import explaining_full_disk
from cli.workflow.streaming.pipeline import SeenKeyFrame
from detector_svc.detections import FrameDetections
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame, ScoredKeyFrame
from stal_data.sealed import check_seal, sealed_json

log = logging.getLogger(__name__)


class KeptKeyFrames:
    """A file of lines, each with its checksum, to which answers are added as they come. Use with `with`.

    The first line says what they were made from; those of something else, and whatever follows a damaged line, are
    left out. Arrays are float32.
    """

    def __init__(self, path: Path, video: str, made_from: Mapping[str, Any]) -> None:
        """made_from: all that decides about the answers, as JSON."""
        self.path, self._video = path, video
        self.people: dict[int, FrameDetections] = {}
        """Those in the file, by time in ms."""
        self.answered_ms: int | None = None
        """Time of the last key frame with scores."""
        self.num_answered = 0
        head, size = {"made_from": dict(made_from)}, 0
        for number, (item, end) in enumerate(_read(path)):
            if number == 0 and item != head:
                break
            size = end
            if "confidence" in item:
                self.people[item["time_ms"]] = _people(item)
            elif "scores" in item:
                self.answered_ms, self.num_answered = item["time_ms"], self.num_answered + 1
        with explaining_full_disk(path):
            self._file = path.open("ab")
            self._file.truncate(size)
        if size == 0:
            self._add(head)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add_people(self, time_ms: int, found: FrameDetections) -> None:
        persons = {} if found.persons_N is None else {"persons": found.persons_N.tolist()}
        self._add({"time_ms": time_ms, "boxes": _text(found.boxes_N4), "confidence": _text(found.scores_N), **persons})

    def add_scores(self, scored: ScoredKeyFrame) -> None:
        """Key frames come in the order of time, each after its people."""
        self._add({"time_ms": scored.key.time_ms, "scores": _text(scored.scores_NC)})

    def scored(self) -> Iterator[SeenKeyFrame]:
        """Yield the key frames with people and scores, holding a few in memory."""
        people: dict[int, FrameDetections] = {}
        for item, _ in _read(self.path):
            if "confidence" in item:
                people[item["time_ms"]] = _people(item)
            elif "scores" in item and len(found := people.pop(item["time_ms"])):
                key, scores_NC = KeyFrame(self._video, item["time_ms"]), _array(item["scores"]).reshape(len(found), -1)
                scored = ScoredKeyFrame(
                    key=key, boxes_N4=found.boxes_N4, scores_NC=scores_NC, persons_N=found.persons_N
                )
                yield SeenKeyFrame(scored, found.scores_N)

    def remove(self) -> None:
        """Delete the file: the video is finished, or was another than it seemed."""
        self.path.unlink(missing_ok=True)

    def _add(self, item: Mapping[str, Any]) -> None:
        with explaining_full_disk(self.path):
            self._file.write(sealed_json(item, indent=None) + b"\n")
            self._file.flush()


def _read(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield what the lines hold, up to the first damaged one, and where each ends."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                whole = line.endswith(b"\n") and check_seal(line[:-1], str(path), "")
            except InputError:
                whole = False
            if not whole:
                log.warning("'%s' is damaged before byte %d; what follows is made again.", path, file.tell())
                return
            item = json.loads(line)
            del item["seal"]
            yield item, file.tell()


def _text(array: NDArray[np.float32]) -> str:
    return base64.b64encode(array.astype("<f4").tobytes()).decode()


def _array(text: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float32)


def _people(item: Mapping[str, Any]) -> FrameDetections:
    return FrameDetections(
        boxes_N4=_array(item["boxes"]).reshape(-1, 4),
        scores_N=_array(item["confidence"]),
        persons_N=np.array(item["persons"], dtype=np.int64) if "persons" in item else None,
    )
