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
    if any(key is not None for clip in clips for key in around.around(clip.people.key)):
        return seen, []
    data = predictor.checkpoint.recipe.data
    return seen, [
        f"the head also looks {data.neighbours} key frames before and after, {data.neighbour_ms} ms apart, but no key "
        "frame here has another one there"
    ]


def surroundings_of(predictor: Predictor, query: RecognizeQuery) -> Neighbourhood | None:
    """Return what a call says of the key frames around; bad boxes are refused, and what the head does not look at."""
    for key, found in query.neighbours.items():
        check_boxes(key, found.boxes_N4)
    around, data = predictor.neighbourhood(query.neighbours), predictor.checkpoint.recipe.data
    unseen = sorted(query.neighbours.keys() - set(() if around is None else around.around(query.key)))
    if unseen:
        looks = (
            f"looks at {data.neighbours} key frames before and after, {data.neighbour_ms} ms apart, each at the one "
            "nearest to its time"
            if data.neighbours
            else "looks at no key frame but the one to score"
        )
        raise InputError(
            f"neighbours has {', '.join(map(str, unseen))} for key frame {query.key}, but the head {looks}; leave out "
            "what it does not look at."
        )
    return around
