"""Training on a detector's boxes: each has the actions of the annotated person that it fits, or none.

N detected boxes of a key frame, M annotated ones, C classes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cache.proposal_store import Proposals
from cache.split_store import PublishedSplit
from recognizer_svc.data import LabelledKeyFrame
from recognizer_svc.people import People
from recognizer_svc.training.recipe_sections import Data
from stal_data.amounts import amount
from stal_data.boxes import intersection_over_union
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from stal_data.labels import LabelMap


@dataclass(frozen=True, kw_only=True)
class DetectedClips:
    """The clips of a split's detected boxes.

    people: the same boxes of every key frame of the split, also where there are none. note: how they were matched.
    """

    clips: list[LabelledKeyFrame]
    people: dict[KeyFrame, People]
    note: str


def detected_clips(split: PublishedSplit, label_map: LabelMap, proposals: Proposals, data: Data) -> DetectedClips:
    """Return a clip for each key frame with detected boxes; those without area are left out.

    Raises StalError where a key frame of the split is not among the proposals, and where no box fits anybody.
    """
    clips, people = [], {}
    empty = left_out = matched = negative = missed = annotated = 0
    for item in split.key_frames:
        found = People.of(proposals.of(item.key)[0], proposals.track_ids_of(item.key))
        shown = people[item.key] = found.only(found.with_area)
        place_N = best_matches(shown.boxes_N4, item.boxes_N4, data.match_iou)
        fits_N = place_N >= 0
        left_out += len(found.boxes_N4) - len(shown.boxes_N4)
        matched += int(fits_N.sum())
        negative += int((~fits_N).sum())
        annotated += len(item.boxes_N4)
        missed += len(item.boxes_N4) - len(set(place_N[fits_N].tolist()))
        if not len(shown.boxes_N4):
            empty += 1
            continue
        targets_NC = np.zeros((len(place_N), label_map.num_classes), dtype=np.float32)
        targets_NC[fits_N] = label_map.targets(item.labels)[place_N[fits_N]]
        part = int(data.boxes == "both")
        clips.append(LabelledKeyFrame(key=item.key, boxes_N4=shown.boxes_N4, targets_NC=targets_NC, part=part))
    name = f"{split.dataset}/{split.split}"
    if not matched:
        raise InputError(
            f"None of the {negative} boxes of '{proposals.detector.name}' in {name} overlaps an annotated person by an "
            f"IoU of {data.match_iou:g} or more, so they show no actions. Lower data.match_iou, or name the proposals "
            "of this split's people with data.proposals."
        )
    note = (
        f"training on {amount(len(clips), 'key frame')} of {name} with {amount(matched + negative, 'box')} of "
        f"'{proposals.detector.name}': {matched} match an annotated person (IoU of {data.match_iou:g} or more), "
        f"{negative} are negatives; {missed} of {annotated} annotated people have no box; {empty} key frames without "
        "boxes skipped"
    )
    return DetectedClips(
        clips=clips,
        people=people,
        note=f"{note}; {amount(left_out, 'box')} without area left out" if left_out else note,
    )


def best_matches(boxes_N4: NDArray[np.float32], people_M4: NDArray[np.float32], min_iou: float) -> NDArray[np.int64]:
    """Return for each box the place of the annotated one with the highest IoU, the first of several; -1 below min_iou.

    Several boxes may have the same one.
    """
    if not len(people_M4):
        return np.full(len(boxes_N4), -1, dtype=np.int64)
    iou_NM = intersection_over_union(boxes_N4.astype(np.float64), people_M4.astype(np.float64))
    return np.where(iou_NM.max(axis=1) >= min_iou, iou_NM.argmax(axis=1), -1)
