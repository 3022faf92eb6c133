"""The results of `infer` over all its videos, in its output folder."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from shutil import copyfileobj

from cache.files import replacing
from cache.proposal_store import read_proposals
from cache.tracks import Tracks
from cli.workflow.results.coco import writing_coco
from cli.workflow.results.json_lines import writing_json_lines
from cli.workflow.results.people import VideoPeople, people_of
from cli.workflow.results.player import writing_player
from cli.workflow.results.segments import segments_of
from stal_data.dataset import Dataset
from stal_data.files import write_atomically
from stal_data.own_videos import SPLIT
from stal_eval.segments import Segment, segments_csv

_NAME_BYTES = 255
"""The longest name of a file, on nearly every file system."""
SEGMENTS = "actions.csv"
FILES = ("index.html", "predictions.csv", "actions.jsonl", "coco.json", SEGMENTS)


@dataclass(frozen=True, kw_only=True)
class ScoredVideo:
    """A video, the data set made of it, and its predictions, which lie in its folder of results.

    digest: of the video, the data set and the proposals. annotated: the MP4; None where none is wanted.
    proposals: what was scored. min_score: of the actions that count. thresholds: by label id, in its place.
    """

    video: str
    path: Path
    digest: str
    dataset: Path
    predictions: Path
    annotated: Path | None
    proposals: Path | None = None
    min_score: float
    thresholds: Mapping[int, float] = field(default_factory=dict)

    def people(self) -> VideoPeople:
        """Read who was found."""
        return people_of(
            Dataset.open(self.dataset).split(SPLIT),
            self.video,
            self.predictions,
            min_score=self.min_score,
            thresholds=self.thresholds,
            tracks=self.tracks(),
        )

    def tracks(self) -> Tracks | None:
        """Read who was followed between key frames; None where nobody was tracked."""
        return None if self.proposals is None else read_proposals(self.proposals).tracks


def file_name(video: str, end: str = "") -> str:
    """VIDEO + END; a video's name that would make it too long for a file's is cut and ends with a digest."""
    if len(video.encode()) + len(end.encode()) <= _NAME_BYTES:
        return video + end
    digest = f"-{sha256(video.encode()).hexdigest()[:16]}"
    room = _NAME_BYTES - len(end.encode()) - len(digest)
    return video.encode()[:room].decode(errors="ignore") + digest + end


def write_results(output: Path, videos: Sequence[ScoredVideo], names: Mapping[int, str]) -> None:
    """Write `FILES`, holding one video's people at a time; predictions.csv has all scores. names: by label id.

    `SEGMENTS` is written where people were tracked, even if none has a track.
    """
    least = min(min([item.min_score, *item.thresholds.values()]) for item in videos)
    segments, tracked = list[Segment](), False
    with ExitStack() as stack:
        partial = stack.enter_context(replacing(output / "predictions.csv"))
        predictions = stack.enter_context(partial.open("wb"))
        add_lines = stack.enter_context(writing_json_lines(output / "actions.jsonl", names))
        add_to_coco = stack.enter_context(writing_coco(output / "coco.json", names))
        add_to_page = stack.enter_context(writing_player(output / "index.html", names, min_score=least))
        for item in videos:
            people = item.people()
            with item.predictions.open("rb") as part:
                copyfileobj(part, predictions)
            add_lines(people)
            add_to_coco(people)
            add_to_page(people, item.path, item.annotated)
            if any(who.track >= 0 for there in people.people for who in there.values()):
                thresholds = dict.fromkeys(names, item.min_score) | dict(item.thresholds)
                segments += segments_of(item.video, item.predictions, thresholds)
                tracked = True
            tracked = tracked or item.tracks() is not None
    if tracked:
        write_atomically(output / SEGMENTS, segments_csv(segments, names))
