"""Files of detectors as proposals: published pickles, mmaction2's proposals and AVA's person boxes.

The elements of a published pickle repeat all boxes of a key frame once for each annotation row.
"""

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
from stal_data.keyframes import KeyFrame
from stal_data.published.elements import Box, read_published

LIBRARY = "imported file"


@dataclass(frozen=True, kw_only=True)
class ProposalReport:
    """What a file held. elements: of a published pickle, else key frames. duplicates_merged: elements less key frames.

    boxes: kept ones. box_rows: boxes of all elements, repeats included.
    key_frames_with_differing_boxes: whose elements hold different boxes; each box is kept once.
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
    key_frames_with_differing_boxes: int
    excluded_key_frames: int
    unknown_key_frames: tuple[str, ...]
    key_frames_without_element: tuple[str, ...]


def import_proposals(
    path: Path, split: Split, store: Store, *, name: str, image_size: tuple[int, int], confidence: float
) -> tuple[Path, ProposalReport]:
    """Write the file's boxes as proposals `name` of the split and publish the split; unknown scores are NaN.

    image_size (height, width in pixels) and confidence: what the detector was run with, which the file does not say.
    Beside the proposals, `NAME.import.json` holds the report.
    """
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
    digest = sha256_of(path)
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


def _texts(keys: Iterable[KeyFrame]) -> tuple[str, ...]:
    return tuple(str(key) for key in sorted(keys))
