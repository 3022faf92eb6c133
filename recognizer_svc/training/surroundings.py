"""What training shows a head of the key frames around a clip's, and what it says about them."""

from collections.abc import Mapping, Sequence

from cache.split_store import PublishedSplit
from recognizer_svc.data import LabelledKeyFrame
from recognizer_svc.neighbours import Neighbourhood
from recognizer_svc.people import People
from recognizer_svc.training.recipe import Recipe
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame


def open_neighbourhood(
    split: PublishedSplit, recipe: Recipe, people: Mapping[KeyFrame, People] | None = None
) -> Neighbourhood | None:
    """Return who is where around each key frame, for a head that sees that. people: None = the annotated ones."""
    if not recipe.data.looks_around:
        return None
    if people is not None:
        return Neighbourhood(people, **recipe.data.reach)
    return Neighbourhood.of_split(split.key_frames, **recipe.data.reach)


def surroundings_notes(items: Sequence[LabelledKeyFrame], around: Neighbourhood, recipe: Recipe) -> list[str]:
    """Say how many other key frames the clips are shown; none at all is an error."""
    data, name = recipe.data, recipe.data.trained_on
    usual_ms, notes = around.usual_step_ms(), []
    usual = "no video has two" if usual_ms is None else f"mostly {usual_ms} ms lie between two"
    if data.neighbours:
        slots = [key for item in items for key in around.around(item.key)]
        found = sum(key is not None for key in slots)
        if not found:
            raise InputError(
                f"data.neighbours is {data.neighbours}, but no key frame of {name} has another one {data.neighbour_ms} "
                f"ms before or after it; {usual}. Set data.neighbour_ms to what lies between two, or data.neighbours=0."
            )
        notes.append(
            f"each person is also looked for in the {data.neighbours} key frames before and after, "
            f"{data.neighbour_ms} ms apart; {name} has {found} of these {len(slots)}"
        )
    if data.bank_s:
        windows = [around.window(item.key) for item in items]
        people = sum(len(boxes_N4) for window in windows for _, boxes_N4 in window)
        if not people:
            raise InputError(
                f"data.bank_s is {data.bank_s}, but no key frame of {name} has another one with people within that "
                f"time; {usual}. Raise data.bank_s, or set it to 0."
            )
        empty = sum(not window for window in windows)
        notes.append(
            f"the feature bank of a clip is the people of the key frames within {data.bank_s} s: "
            f"{people / len(items):.1f} people on average, nobody for {empty} of {len(items)} clips"
        )
    return notes
