"""Answers of a `detect` that did not reach its end: the same command goes on with the rest.

One compressed file of arrays beside the proposals, replaced as a whole. An answer counts again only for the same
detector and the same image bytes. The file stays on the client's machine, also where the store is in a bucket.
"""

import hashlib
import io
import json
import logging
import time
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from detector_svc.detections import FrameDetections
from stal_data.files import write_atomically
from stal_data.keyframes import KeyFrame

log = logging.getLogger(__name__)

SAVE_EVERY_S = 30.0
_VERSION = 1


class KeptAnswers:
    """Answers by key frame, with a digest of the image that each belongs to."""

    def __init__(self, path: Path, model: Mapping[str, str | float]) -> None:
        """model: what decides about the answers. Those of another one, or in a damaged file, are left out."""
        self._path = path
        self._head = json.dumps({"version": _VERSION, "model": dict(model)}, sort_keys=True)
        self._answers: dict[KeyFrame, tuple[int, FrameDetections]] = {}
        self._saved_at = time.monotonic()
        if self._path.exists():
            try:
                self._load()
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                log.warning("The kept answers in '%s' cannot be read (%s); starting anew.", self._path, error)
                self._answers.clear()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: KeyFrame, digest: int) -> FrameDetections | None:
        """The answer to the key frame's image of that digest, if there is one."""
        kept, found = self._answers.get(key, (None, None))
        return found if kept == digest else None

    def add(self, key: KeyFrame, digest: int, found: FrameDetections) -> None:
        """Note an answer; once in a while all are written."""
        self._answers[key] = (digest, found)
        if time.monotonic() - self._saved_at >= SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Write what there is."""
        self._saved_at = time.monotonic()
        if not self._answers:
            return
        found = [answer for _, answer in self._answers.values()]
        content = io.BytesIO()
        np.savez_compressed(
            content,
            head=np.array(self._head),
            videos=np.array([key.video for key in self._answers]),
            timestamps=np.array([key.timestamp for key in self._answers], np.int64),
            digests=np.array([digest for digest, _ in self._answers.values()], np.uint64),
            counts=np.array([len(answer) for answer in found], np.int64),
            boxes=np.concatenate([answer.boxes_N4 for answer in found]),
            scores=np.concatenate([answer.scores_N for answer in found]),
        )
        write_atomically(self._path, content.getvalue())

    def remove(self) -> None:
        """Delete the file: the split is finished."""
        self._path.unlink(missing_ok=True)

    def _load(self) -> None:
        with self._path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if str(arrays["head"]) != self._head:
                return
            ends = np.cumsum(arrays["counts"])[:-1]
            columns = zip(
                arrays["videos"].tolist(),
                arrays["timestamps"].tolist(),
                arrays["digests"].tolist(),
                np.split(arrays["boxes"], ends),
                np.split(arrays["scores"], ends),
                strict=True,
            )
            for video, timestamp, digest, boxes_N4, scores_N in columns:
                found = FrameDetections(boxes_N4=boxes_N4, scores_N=scores_N)
                self._answers[KeyFrame(video, timestamp)] = (digest, found)


def image_digest(image: bytes) -> int:
    """64 bits of a hash of the encoded image."""
    return int.from_bytes(hashlib.blake2b(image, digest_size=8).digest(), "little")
