"""Files of detectors as proposals: published pickles, mmaction2's proposals, AVA's boxes, COCO's results, MOT's text.

The elements of a published pickle repeat all boxes of a key frame once for each annotation row.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from cache.proposal_store import DetectorSpec, Proposals, write_proposals
from cache.split_store import publish_split
from cache.store import Store
from stal_data.dataset import Split
from stal_data.digests import sha256_of
from stal_data.errors import InputError
from stal_data.files import write_atomically
from stal_data.formats.detections import Scored, read_detections
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

    boxes: kept ones. box_rows: boxes of all elements, repeats included.
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
    boxes_elsewhere: int
    key_frames_with_differing_boxes: int
    excluded_key_frames: int
    unknown_key_frames: tuple[str, ...]
    key_frames_without_element: tuple[str, ...]


def import_proposals(
    path: Path,
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
    """Write the file's boxes as proposals `name` of the split and publish the split; unknown scores are NaN.

    image_size (height, width in pixels) and confidence: what the detector was run with, which the file does not say.
    images, category, first_frame: see `coco_results`. Beside the proposals, `NAME.import.json` holds the report.
    """
    source, elsewhere = Source(path), 0
    elements: list[Scored] | None
    if images is not None and source.kind != "JSON":
        raise InputError(f"--images is given, but {path} is no JSON of COCO's results: leave it out.")
    if source.kind == "JSON":
        found = coco_results(source, images, category=category, first_frame=first_frame)
        elements, elsewhere = at_key_frames(found, split)
    elif is_mot(source):
        elements, elsewhere = at_key_frames(mot_boxes(source), split)
    else:
        elements = read_detections(path)
    if elements is None:
        published, _ = read_published(path, "detections")
        elements = [(item.key, [(entry.box, math.nan) for entry in item.boxes]) for item in published]
    merged, differing = _merge(elements)
    keys = tuple(item.key for item in split.key_frames)
    if not merged.keys() & set(keys):
        raise InputError(
            f"{path} and split '{split.name}' of '{split.dataset}' have no key frame in common: the first ones are "
            f"{next(iter(merged), 'none')} and {keys[0]}; give the split that the file was made for."
        )
    digest = _digest(path)
    boxes = [merged.get(key, {}) for key in keys]
    flat = np.array([box for found in boxes for box in found], dtype=np.float32).reshape(-1, 4).clip(0, 1)
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
    )
    report = ProposalReport(
        split=split.name,
        file=str(path),
        sha256=digest,
        elements=len(elements),
        key_frames=len(merged),
        duplicates_merged=len(elements) - len(merged),
        box_rows=sum(len(boxes) for _, boxes in elements),
        boxes=len(flat),
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


def _merge(elements: Iterable[Scored]) -> tuple[dict[KeyFrame, dict[Box, float]], int]:
    """Boxes of each key frame, every box once, and how many key frames have elements with different boxes."""
    first: dict[KeyFrame, list[Box]] = {}
    merged: dict[KeyFrame, dict[Box, float]] = {}
    differing = set()
    for key, scored in elements:
        boxes = [box for box, _ in scored]
        if boxes != first.setdefault(key, boxes):
            differing.add(key)
        merged.setdefault(key, {}).update(scored)
    return merged, len(differing)


def _digest(path: Path) -> str:
    """Return the sha256 of a file; of a folder that of its files' names and digests."""
    if not path.is_dir():
        return sha256_of(path)
    lines = (f"{sha256_of(file)}  {file.name}\n" for file in sorted(path.glob("*.txt")))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _texts(keys: Iterable[KeyFrame]) -> tuple[str, ...]:
    return tuple(str(key) for key in sorted(keys))
