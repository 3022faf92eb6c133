"""Files of detectors as proposals: published pickles, mmaction2's proposals, AVA's boxes, COCO's results, MOT's text.

The elements of a published pickle repeat all boxes of a key frame once for each annotation row.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.proposal_store import DetectorSpec, Proposals, write_proposals
from cache.split_store import publish_split
from cache.store import Store
from cache.tracks import Tracks
from stal_data.dataset import Split
from stal_data.digests import sha256_of
from stal_data.errors import InputError
from stal_data.files import write_atomically
from stal_data.formats.detections import Scored, ScoredBox, read_detections
from stal_data.formats.sources import Source
from stal_data.imports.frame_boxes import at_key_frames, coco_results, is_mot, mot_boxes
from stal_data.keyframes import KeyFrame
from stal_data.published.elements import Box, read_published

LIBRARY = "imported file"
PERSON = 1
"""Of COCO's categories."""


@dataclass(frozen=True, kw_only=True)
class ProposalReport:
    """What a file held. elements: of a published pickle, else key frames. duplicates_merged: elements less key frames.

    tracks: whether boxes have track ids. boxes: kept ones. box_rows: boxes of all elements, repeats included.
    key_frames_with_differing_boxes: whose elements hold different boxes; each box is kept once.
    boxes_elsewhere: boxes on frames of no key frame, or beyond the picture.
    excluded_key_frames: left out because the split excludes them. unknown_key_frames: that the split does not have.
    key_frames_without_element: of the split; they get no boxes, so nothing is predicted for them.
    """

    split: str
    file: str
    sha256: str
    elements: int
    key_frames: int
    duplicates_merged: int
    box_rows: int
    boxes: int
    tracks: bool
    boxes_elsewhere: int
    key_frames_with_differing_boxes: int
    excluded_key_frames: int
    unknown_key_frames: tuple[str, ...]
    key_frames_without_element: tuple[str, ...]


def import_proposals(
    paths: Sequence[Path],
    split: Split,
    store: Store,
    *,
    name: str,
    image_size: tuple[int, int],
    confidence: float,
    images: Path | None = None,
    category: int = PERSON,
    first_frame: int = 1,
) -> tuple[Path, ProposalReport]:
    """Write the files' boxes as proposals `name` of the split and publish the split; unknown scores are NaN.

    image_size (height, width in pixels) and confidence: what the detector was run with, which the file does not say.
    images, category, first_frame: see `coco_results`. Beside the proposals, `NAME.import.json` holds the report.
    """
    elements: list[Scored] = []
    elsewhere = 0
    for path in paths:
        found, others = _read(path, split, images, category=category, first_frame=first_frame)
        elements += found
        elsewhere += others
    merged, differing = _merge(elements)
    keys = tuple(item.key for item in split.key_frames)
    names = ", ".join(map(str, paths))
    if not merged.keys() & set(keys):
        raise InputError(
            f"{names} and split '{split.name}' of '{split.dataset}' have no key frame in common: the first ones are "
            f"{next(iter(merged), 'none')} and {keys[0]}; give the split that the file was made for."
        )
    digest = _digest(paths)
    boxes = [merged.get(key, {}) for key in keys]
    ids = np.array([track for found in boxes for _, track in found], dtype=np.int64)
    flat = np.array([box for found in boxes for box, _ in found], dtype=np.float32).reshape(-1, 4).clip(0, 1)
    proposals = Proposals(
        dataset=split.dataset,
        split=split.name,
        key_frames=keys,
        offsets_K1=np.cumsum([0, *map(len, boxes)], dtype=np.int64),
        boxes_N4=flat,
        scores_N=np.array([score for found in boxes for score in found.values()], dtype=np.float32),
        detector=DetectorSpec(
            name=name,
            weights=f"unknown, boxes of sha256:{digest}",
            height=image_size[0],
            width=image_size[1],
            confidence=confidence,
            library=LIBRARY,
        ),
        tracks=_tracks(ids) if (ids > 0).any() else None,
    )
    report = ProposalReport(
        split=split.name,
        file=names,
        sha256=digest,
        elements=len(elements),
        key_frames=len(merged),
        duplicates_merged=len(elements) - len(merged),
        box_rows=sum(len(boxes) for _, boxes in elements),
        boxes=len(flat),
        tracks=proposals.tracks is not None,
        boxes_elsewhere=elsewhere,
        key_frames_with_differing_boxes=differing,
        excluded_key_frames=len(merged.keys() & split.exclusions),
        unknown_key_frames=_texts(merged.keys() - set(keys) - split.exclusions),
        key_frames_without_element=_texts(set(keys) - merged.keys()),
    )
    publish_split(store, split)
    written = write_proposals(store, proposals)
    write_atomically(written.with_suffix(".import.json"), json.dumps(asdict(report), indent=2) + "\n")
    return written, report


def _read(
    path: Path, split: Split, images: Path | None, *, category: int, first_frame: int
) -> tuple[list[Scored], int]:
    """Return the elements of a file, and how many boxes are on frames of no key frame."""
    source = Source(path)
    if images is not None and source.kind != "JSON":
        raise InputError(f"--images is given, but {path} is no JSON of COCO's results: leave it out.")
    if source.kind == "JSON":
        return at_key_frames(coco_results(source, images, category=category, first_frame=first_frame), split)
    if is_mot(source):
        return at_key_frames(mot_boxes(source), split)
    elements = read_detections(path)
    if elements is None:
        published, _ = read_published(path, "detections")
        elements = [(item.key, [ScoredBox(entry.box, math.nan) for entry in item.boxes]) for item in published]
    return elements, 0


def _tracks(ids_N: NDArray[np.int64]) -> Tracks:
    return Tracks(
        tracker=LIBRARY,
        ids_N=ids_N,
        frames=(),
        offsets_M1=np.zeros(1, np.int64),
        boxes_P4=np.zeros((0, 4), np.float32),
        scores_P=np.zeros(0, np.float32),
        ids_P=np.zeros(0, np.int64),
    )


def _merge(elements: Iterable[Scored]) -> tuple[dict[KeyFrame, dict[tuple[Box, int], float]], int]:
    """Boxes with track ids of each key frame, each once, and how many have elements with different boxes."""
    first: dict[KeyFrame, list[Box]] = {}
    merged: dict[KeyFrame, dict[tuple[Box, int], float]] = {}
    differing = set()
    for key, scored in elements:
        boxes = [item.box for item in scored]
        if boxes != first.setdefault(key, boxes):
            differing.add(key)
        merged.setdefault(key, {}).update({(item.box, item.track): item.score for item in scored})
    for key, found in merged.items():
        for track, count in Counter(track for _, track in found if track > 0).items():
            if count > 1:
                raise InputError(
                    f"Track {track} has {count} boxes at key frame {key}, but may have one: correct the file."
                )
    return merged, len(differing)


def _digest(paths: Sequence[Path]) -> str:
    """Return the sha256 of a file; of several, or of a folder, that of their names and digests."""
    files = [file for path in paths for file in (sorted(path.glob("*.txt")) if path.is_dir() else [path])]
    if files == list(paths) and len(files) == 1:
        return sha256_of(files[0])
    lines = (f"{sha256_of(file)}  {file.name}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _texts(keys: Iterable[KeyFrame]) -> tuple[str, ...]:
    return tuple(str(key) for key in sorted(keys))
