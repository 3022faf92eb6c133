"""The results of `infer` over all its videos, in its output folder."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from shutil import copyfileobj

from cache.files import replacing
from cli.workflow.results.coco import writing_coco
from cli.workflow.results.json_lines import writing_json_lines
from cli.workflow.results.people import VideoPeople, people_of
from cli.workflow.results.player import writing_player
from stal_data.dataset import Dataset
from stal_data.own_videos import SPLIT

_NAME_BYTES = 255
"""The longest name of a file, on nearly every file system."""
FILES = ("index.html", "predictions.csv", "actions.jsonl", "coco.json")


@dataclass(frozen=True, kw_only=True)
class ScoredVideo:
    """A video, the data set made of it, and its predictions, which lie in its folder of results.

    digest: of the video and the data set. annotated: the MP4; None where none is wanted.
    """

    video: str
    path: Path
    digest: str
    dataset: Path
    predictions: Path
    annotated: Path | None

    def people(self, min_score: float) -> VideoPeople:
        """Read who was found. min_score: of the actions that count."""
        split = Dataset.open(self.dataset).split(SPLIT)
        return people_of(split, self.video, self.predictions, min_score=min_score)


def file_name(video: str, end: str = "") -> str:
    """VIDEO + END; a video's name that would make it too long for a file's is cut and ends with a digest."""
    if len(video.encode()) + len(end.encode()) <= _NAME_BYTES:
        return video + end
    digest = f"-{sha256(video.encode()).hexdigest()[:16]}"
    room = _NAME_BYTES - len(end.encode()) - len(digest)
    return video.encode()[:room].decode(errors="ignore") + digest + end


def write_results(output: Path, videos: Sequence[ScoredVideo], names: Mapping[int, str], *, min_score: float) -> None:
    """Write `FILES`, holding one video's people at a time.

    names: by label id. min_score: of the actions, in all files but predictions.csv.
    """
    with ExitStack() as stack:
        partial = stack.enter_context(replacing(output / "predictions.csv"))
        predictions = stack.enter_context(partial.open("wb"))
        add_lines = stack.enter_context(writing_json_lines(output / "actions.jsonl", names))
        add_to_coco = stack.enter_context(writing_coco(output / "coco.json", names))
        add_to_page = stack.enter_context(writing_player(output / "index.html", names, min_score=min_score))
        for item in videos:
            people = item.people(min_score)
            with item.predictions.open("rb") as part:
                copyfileobj(part, predictions)
            add_lines(people)
            add_to_coco(people)
            add_to_page(people, item.path, item.annotated)
