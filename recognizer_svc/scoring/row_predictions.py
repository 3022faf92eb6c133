"""What a prediction shows the head, and how often it repeats the answer."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from cache.split_store import PublishedSplit
from recognizer_svc.people import People
from recognizer_svc.scoring.predict import BoxesOfKeyFrame
from recognizer_svc.training.recipe_sections import Layout
from recognizer_svc.training.row_layout import rows_of
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame, ScoredKeyFrame


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipToScore:
    """One clip; `repeats`: how often its boxes are in the predictions."""

    people: BoxesOfKeyFrame
    repeats: int


def clips_to_score(
    split: PublishedSplit, people: Mapping[KeyFrame, People], layout: Layout, *, alone: bool
) -> list[ClipToScore]:
    """Return the clips of a split, key frame after key frame; those without boxes are left out.

    people: of each key frame of the split.
    layout: with `rows` a key frame's clip is repeated once for each of its annotation rows, as with published
        detections. alone: the boxes are the annotated ones; then `rows` makes a clip of each row's person instead.
    """
    if layout == "rows" and not split.annotated:
        raise InputError(
            f"{split.dataset}/{split.split} has no annotations, and the layout 'rows' repeats predictions once for "
            "each annotation row; use key_frames."
        )
    clips = []
    for item in split.key_frames:
        found = people[item.key]
        everyone = BoxesOfKeyFrame(key=item.key, boxes_N4=found.boxes_N4, persons_N=found.persons_N)
        if layout == "key_frames":
            clips.append(ClipToScore(people=everyone, repeats=1))
            continue
        rows = [person for person, _ in rows_of(item)]
        if alone:
            itself_NN = np.eye(len(found.boxes_N4), dtype=np.bool_)
            clips += [
                ClipToScore(people=everyone.only(only_N), repeats=rows.count(person))
                for person, only_N in enumerate(itself_NN)
            ]
        else:
            clips.append(ClipToScore(people=everyone, repeats=len(rows)))
    return [clip for clip in clips if clip.repeats and len(clip.people.boxes_N4)]


def repeated(
    clips: Sequence[ClipToScore], scored: Iterable[ScoredKeyFrame], *, with_persons: bool
) -> Generator[ScoredKeyFrame]:
    """Yield each key frame once, with the boxes and scores of its clips as often as they are repeated.

    scored: of the clips, in their order. with_persons: with the ids of the clips' people.
    """
    pairs = zip(clips, scored, strict=True)
    for key, group in groupby(pairs, key=lambda pair: pair[1].key):
        parts = list(group)
        persons = [(clip.people.persons_N, clip.repeats) for clip, _ in parts if with_persons]
        ids = [np.tile(persons_N, repeats) for persons_N, repeats in persons if persons_N is not None]
        yield ScoredKeyFrame(
            key=key,
            boxes_N4=np.concatenate([np.tile(item.boxes_N4, (clip.repeats, 1)) for clip, item in parts]),
            scores_NC=np.concatenate([np.tile(item.scores_NC, (clip.repeats, 1)) for clip, item in parts]),
            persons_N=np.concatenate(ids) if ids else None,
        )
