"""What `infer` does: the workflow's commands on a data set made of each video, then the results over all of them.

What goes into the store is named by the content that it was made from, so that other runs and other output folders
find it there, and nothing of another content ever has its name.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from cli.ui.progress import counted
from cli.workflow.fingerprints import Unchanged, digest_of
from cli.workflow.output_folder import claimed
from cli.workflow.results.subtitles import web_vtt
from cli.workflow.results.writing import FILES, ScoredVideo, file_name, write_results
from cli.workflow.stages import Product, Stages, StartError
from cli.workflow.stored_names import stored_name
from stal_data.errors import StalError
from stal_data.files import write_atomically
from stal_data.labels import LabelMap
from stal_data.media.video_folder import by_video_id
from svc_common.errors import ServiceError

if TYPE_CHECKING:
    from cli.workflow.store_scoring import StoreScoring
    from cli.workflow.streaming.service_scoring import ServiceScoring

ANNOTATED = "-annotated.mp4"
"""End of an annotated video's name."""


@dataclass(frozen=True, kw_only=True)
class InferenceRequest:
    """One call of `infer`."""

    videos: tuple[Path, ...]
    scoring: "StoreScoring | ServiceScoring"
    """How people are found and scored."""
    min_score: float
    model_thresholds: bool
    """Whether those of the model take its place."""
    annotate: bool
    """Whether to write videos with the boxes drawn in."""
    output: Path

    @property
    def thresholds(self) -> Mapping[int, float]:
        """By label id, in place of `min_score`."""
        return self.scoring.thresholds if self.model_thresholds else {}


class Inferred(NamedTuple):
    """What `infer` did with the videos. scored: those with results. failed: the others, and why."""

    scored: list[ScoredVideo]
    failed: dict[str, str]


def run_inference(request: InferenceRequest) -> Inferred:
    """Run every stage for each video, and write the results of those that went well.

    A single video that does not raises its error.
    """
    request.scoring.check()
    files = by_video_id(request.videos)
    watched = {video: Unchanged([path, *request.scoring.files]) for video, path in files.items()}
    inferred, digests = Inferred([], {}), dict[tuple[Path, tuple[str, ...]], str]()
    with claimed(request.output, "infer"):
        with request.scoring.ready(request.output) as label_map:
            started = time.monotonic()
            for number, (video, path) in enumerate(files.items()):
                if len(files) > 1:
                    left_s = (time.monotonic() - started) / max(1, number) * (len(files) - number)
                    left = f", about {left_s / 60:.0f} min left" if left_s >= 60 else ""
                    click.echo(f"{video} ({number + 1} of {len(files)}{left})")
                stages = Stages(request.output / "videos" / file_name(video), digests=digests)
                try:
                    scored = _infer(stages, request, label_map, video, path, watched[video])
                    inferred.scored.append(scored)
                except (StartError, ServiceError):
                    raise  # it concerns all videos
                except (StalError, OSError) as error:
                    # An error of the system is the video's own only if it names it.
                    if len(files) == 1 or (isinstance(error, OSError) and error.filename != str(path)):
                        raise
                    inferred.failed[video] = str(error)
                    click.echo(f"  {video} failed: the reason follows at the end", err=True)
        if inferred.scored:
            _write_results(request, inferred.scored, label_map)
    return inferred


def _infer(
    stages: Stages, request: InferenceRequest, label_map: LabelMap, video: str, path: Path, watched: Unchanged
) -> ScoredVideo:
    predictions, dataset = stages.root / "predictions.csv", stages.root / "dataset"
    name = stored_name(path.stem, [[path.stem, stages.digest(path)]])
    stages.run(
        "dataset",
        *("dataset", "from-videos", str(path), "--output", str(dataset), "--name", name),
        inputs={str(path): stages.digest(path)},
        products=[Product(dataset)],
    )
    content = {"dataset": stages.digest(dataset), str(path): stages.digest(path)}
    proposals = request.scoring.score(
        stages, video, dataset=dataset, predictions=predictions, content=content, watched=watched
    )
    if proposals is not None:
        content["proposals"] = stages.digest(proposals)
    scored = ScoredVideo(
        video=video,
        path=path,
        digest=digest_of(content),
        dataset=dataset,
        predictions=predictions,
        proposals=proposals,
        min_score=request.min_score,
        thresholds=request.thresholds,
        annotated=stages.root / file_name(video, ANNOTATED) if request.annotate else None,
    )
    _write_videos_own(stages, request, scored, label_map, content)
    watched.check()
    return scored


def _write_videos_own(
    stages: Stages, request: InferenceRequest, scored: ScoredVideo, label_map: LabelMap, content: Mapping[str, str]
) -> None:
    """Write subtitles and the annotated video; where none is wanted, remove an earlier one."""
    subtitles = stages.root / file_name(scored.video, ".vtt")

    def write() -> None:
        people, names = scored.people(), _names(label_map)
        write_atomically(subtitles, web_vtt(people, names))
        if scored.annotated is None:
            return
        from cli.workflow.results.annotated_video import write_annotated_video

        with counted("drawing", unit="pictures") as progress:
            unwritable = write_annotated_video(scored.annotated, scored.path, people, names, progress)
        if unwritable:
            click.echo(f"No font of this machine can write {', '.join(unwritable)}: label ids are drawn.", err=True)

    stages.make(
        "video",
        write,
        asked=_asked(request),
        inputs={**content, "predictions": stages.digest(scored.predictions), "label_map": label_map.digest},
        products=[Product(subtitles), Product(stages.root / file_name(scored.video, ANNOTATED))],
    )


def _write_results(request: InferenceRequest, scored: Sequence[ScoredVideo], label_map: LabelMap) -> None:
    stages = Stages(request.output)

    def write() -> None:
        write_results(request.output, scored, _names(label_map))

    stages.make(
        "results",
        write,
        asked=_asked(request),
        inputs={str(item.path): digest_of([item.digest, stages.digest(item.predictions)]) for item in scored}
        | {"label_map": label_map.digest},
        products=[Product(request.output / name) for name in FILES],
    )


def _asked(request: InferenceRequest) -> list[str]:
    scores = [f"{label}: {score}" for label, score in request.thresholds.items()]
    return ["--min-score", str(request.min_score), *scores, *([] if request.annotate else ["--no-video"])]


def _names(label_map: LabelMap) -> dict[int, str]:
    return dict(zip(label_map.ids, label_map.names, strict=True))
