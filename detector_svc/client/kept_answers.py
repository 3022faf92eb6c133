"""Answers that are kept on this machine until a split is complete, so that the same command goes on with the rest."""

import io
import json
import logging
import time
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from detector_svc.detections import FrameDetections, joined
from stal_data.files import write_atomically

log = logging.getLogger(__name__)

_SAVE_EVERY_S = 30.0


class KeptAnswers:
    """Answers by frame id: one file of arrays, replaced as a whole, which stays on this machine.

    An answer counts again only for the same detector and the same image bytes.
    """

    def __init__(self, path: Path, model: Mapping[str, str | float]) -> None:
        """model: what decides about the answers. Those of another one, or in a damaged file, are left out."""
        self._path = path
        self._head = json.dumps({"version": 3, "model": dict(model)}, sort_keys=True)
        self._answers: dict[str, tuple[int, FrameDetections]] = {}
        self._saved_at = time.monotonic()
        try:
            self._answers = self._load() if path.exists() else {}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            log.warning("The kept answers in '%s' cannot be read (%s); starting anew.", path, error)

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, frame_id: str, digest: int) -> FrameDetections | None:
        """The answer to the frame's image of that digest, if there is one."""
        kept, found = self._answers.get(frame_id, (None, None))
        return found if kept == digest else None

    def add(self, frame_id: str, digest: int, found: FrameDetections) -> None:
        """Note an answer; once in a while all are written."""
        self._answers[frame_id] = (digest, found)
        if time.monotonic() - self._saved_at >= _SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Write what there is."""
        self._saved_at = time.monotonic()
        if not self._answers:
            return
        boxes_N4, scores_N = joined([found for _, found in self._answers.values()])
        content = io.BytesIO()
        np.savez_compressed(
            content,
            head=np.array(self._head),
            frames=np.array(list(self._answers)),
            digests=np.array([digest for digest, _ in self._answers.values()], np.uint64),
            counts=np.array([len(found) for _, found in self._answers.values()], np.int64),
            boxes=boxes_N4,
            scores=scores_N,
        )
        write_atomically(self._path, content.getvalue())

    def remove(self) -> None:
        """Delete the file: the split is finished."""
        self._path.unlink(missing_ok=True)

    def _load(self) -> dict[str, tuple[int, FrameDetections]]:
        with self._path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if str(arrays["head"]) != self._head:
                return {}
            ends = np.cumsum(arrays["counts"])[:-1]
            frames, digests = arrays["frames"].tolist(), arrays["digests"].tolist()
            boxes, scores = np.split(arrays["boxes"], ends), np.split(arrays["scores"], ends)
            return {
                frame_id: (digest, FrameDetections(boxes_N4=boxes_N4, scores_N=scores_N))
                for frame_id, digest, boxes_N4, scores_N in zip(frames, digests, boxes, scores, strict=True)
            }
