"""People of small videos, for the tests of what `infer` writes about them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cli.workflow.predictions import Person
from cli.workflow.results.people import VideoPeople
from cli.workflow.results.writing import ScoredVideo
from stal_data.media.video import VideoFiles
from stal_data.own_videos import write_video_dataset
from tests.data.videos import constant, write_video

HOSTILE = "</script><img src=x onerror=alert(1)> --> &amp; \u8d70\n[x]"
NAMES = {1: "walk", 2: HOSTILE, 3: "wave"}


def person(x: float, *actions: tuple[int, float], y: float = 0.25) -> Person:
    """A person who is a quarter of the picture wide and half of it high."""
    return Person((x, y, x + 0.25, y + 0.5), actions)


def people_in(path: Path, people: Sequence[Mapping[int, Person]]) -> VideoPeople:
    """People at the first whole seconds of a video file."""
    info = VideoFiles({path.stem: path}).info(path.stem)
    times_ms = tuple(1000 * second for second in range(len(people)))
    return VideoPeople(video=path.stem, info=info, times_ms=times_ms, people=tuple(dict(there) for there in people))


def walkers(path: Path) -> VideoPeople:
    """Four seconds: person 1 walks to the right, is gone at second 2 and back at 3; person 2 waves at second 1."""
    if not path.exists():
        write_video(path, constant(25, 100))
    return people_in(
        path,
        [
            {1: person(0.0, (1, 0.9), (2, 0.4))},
            {1: person(0.4, (1, 0.8)), 2: person(0.7, (3, 0.7))},
            {},
            {1: person(0.5, (2, 0.6))},
        ],
    )


def scored(folder: Path, people: VideoPeople, path: Path, *, annotated: Path | None = None) -> ScoredVideo:
    """The people as `infer` has them: a data set and a predictions file with ids."""
    folder.mkdir(parents=True)
    write_video_dataset(folder / "dataset", "case", [path])
    predictions = folder / "predictions.csv"
    predictions.write_text(
        "".join(
            f"{people.video},{time_ms // 1000},{','.join(map(str, found.box))},{label},{score},{number}\n"
            for time_ms, there in zip(people.times_ms, people.people, strict=True)
            for number, found in there.items()
            for label, score in found.actions
        )
    )
    return ScoredVideo(
        video=people.video,
        path=path,
        digest="",
        dataset=folder / "dataset",
        predictions=predictions,
        annotated=annotated,
        min_score=0.5,
    )
