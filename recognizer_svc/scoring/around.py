"""Who is where around the key frames to score, for heads that look there. Imports torch."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from recognizer_svc.boxes import check_boxes
from recognizer_svc.neighbours import Neighbourhood
from recognizer_svc.people import People
from recognizer_svc.scoring.predict import Predictor
from recognizer_svc.scoring.queries import RecognizeQuery
from recognizer_svc.scoring.row_predictions import ClipToScore
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame


def with_surroundings(
    predictor: Predictor, clips: Sequence[ClipToScore], people: Mapping[KeyFrame, People]
) -> tuple[list[ClipToScore], list[str]]:
    """Return the clips of a split with what the head sees around them, and what to say about it.

    people: of all key frames of the split; boxes without area are left out here, too.
    """
    if predictor.neighbourhood({}) is None:
        return list(clips), []
    around = predictor.neighbourhood({key: found.only(found.with_area) for key, found in people.items()})
    assert around is not None
    seen = [replace(clip, people=replace(clip.people, around=around)) for clip in clips]
    if any(around.looked_at(clip.people.key) for clip in clips):
        return seen, []
    return seen, [f"the head also {_looks(predictor)}, but no key frame here has another one there"]


def surroundings_of(predictor: Predictor, query: RecognizeQuery) -> Neighbourhood | None:
    """Return what a call says of the key frames around; bad boxes are refused, and what the head does not look at."""
    for key, found in query.neighbours.items():
        check_boxes(key, found.boxes_N4)
    around = predictor.neighbourhood(query.neighbours)
    unseen = sorted(query.neighbours.keys() - (set() if around is None else around.looked_at(query.key)))
    if unseen:
        raise InputError(
            f"neighbours has {', '.join(map(str, unseen))} for key frame {query.key}, but the head "
            f"{_looks(predictor)}; leave out what it does not look at."
        )
    return around


def _looks(predictor: Predictor) -> str:
    data = predictor.checkpoint.recipe.data
    near = f"{data.neighbours} key frames before and after, {data.neighbour_ms} ms apart, each the nearest to its time"
    wide = f"all key frames within {data.bank_s} s"
    places = [text for text, value in ((near, data.neighbours), (wide, data.bank_s)) if value]
    return f"looks at {' and '.join(places) or 'no key frame but the one to score'}"
