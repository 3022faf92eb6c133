"""What `infer` does: the workflow's commands on a data set made of the given videos, then the readable results.

What goes into the store is named by the content that it was made from, so that other runs and other output folders
find it there, and nothing of another content ever has its name.
"""

import asyncio
import json
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import click

from cache.files import locked
from cli.annotated import Person, draw_key_frame, read_predictions
from cli.feature_stage import precompute
from cli.fingerprints import RUN_PARTS, digest_of
from cli.output_folder import claimed
from cli.stages import Product, Service, Stages
from stal_data.dataset import Dataset, Split
from stal_data.errors import ConflictError, NotFoundError, StalError
from stal_data.keyframes import KeyFrame
from stal_data.labels import LabelMap
from svc_common.config import ClientConfig

SPLIT = "all"


@dataclass(frozen=True, kw_only=True)
class InferenceRequest:
    """One call of `infer`. Either detector_weights (start a private service) or detector_services is given."""

    videos: tuple[Path, ...]
    store: Path
    run_id: str
    backbone_options: dict[str, str]
    """Values of precompute's options by name: slowfast, vit, slowfast-preset, vit-preset."""
    detector_weights: Path | None
    detector_options: tuple[str, ...]
    """Of the private service."""
    detector_services: tuple[ClientConfig, ...]
    detector_connection: tuple[str, ...]
    """Options of `detect` that say how to reach those services."""
    min_score: float
    output: Path


def run_inference(request: InferenceRequest) -> int:
    """Run every stage and write the results; return the number of people scored, over all key frames."""
    run = request.store / "runs" / request.run_id
    if not (run / "label_map.pbtxt").exists():
        raise NotFoundError(
            f"--run {request.run_id!r}: no such run in {request.store}. `stal-cli runs list --store {request.store}` "
            "lists them."
        )
    with claimed(request.output, "infer"):
        return _infer(Stages(request.output), request, run)


class _Unchanged:
    """Notices when a video is written to while it is read: a name in the store must not lie about the content."""

    def __init__(self, videos: Sequence[Path]) -> None:
        self._versions = {video: self._version(video) for video in videos}

    def check(self, what_else: str = "") -> None:
        for video, version in self._versions.items():
            if self._version(video) != version:
                raise ConflictError(
                    f"The video '{video}' was changed while infer read it; run it again when the file is complete."
                    f"{what_else}"
                )

    @staticmethod
    def _version(video: Path) -> tuple[int, int, int]:
        found = video.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns


def _infer(stages: Stages, request: InferenceRequest, run: Path) -> int:
    predictions, dataset = request.output / "predictions.csv", request.output / "dataset"
    watched = _Unchanged(request.videos)
    videos = {str(video): stages.digest(video) for video in request.videos}
    name = _dataset_name(request.videos, stages)
    stages.run(
        "dataset",
        *("dataset", "from-videos", *videos, "--output", str(dataset), "--name", name),
        inputs=videos,
        products=[Product(dataset)],
    )
    content = {"dataset": stages.digest(dataset), **videos}
    # Whoever works on the same videos at the same time waits here, and then finds that all is done.
    with locked(request.store / "features" / name / SPLIT / ".locks" / "infer.lock"):
        proposals = _detect(stages, request, name, dataset, content, watched)
        words = [word for option, value in request.backbone_options.items() for word in (f"--{option}", value)]
        (features,) = precompute(
            stages,
            "precompute",
            *(str(dataset), "--split", SPLIT, "--store", str(request.store), *words),
            store=request.store,
            dataset=name,
            split=SPLIT,
            inputs=content | {value: stages.digest(Path(value)) for value in request.backbone_options.values()},
        )
        watched.check(
            f" Delete the features: stal-cli cache prune {request.store} --set {features.path.name} --dataset {name}"
        )
    made_from = {
        "run": stages.digest(run, RUN_PARTS),
        "proposals": stages.digest(proposals),
        "features": stages.digest(features.path, features.parts),
    }
    stages.run(
        "predict",
        *("predict", "--run", request.run_id, "--dataset", name, "--split", SPLIT),
        *("--boxes", f"proposals:{proposals.stem}", "--feature-set", features.path.name),
        *("--store", str(request.store), "--output", str(predictions)),
        inputs=made_from,
        products=[Product(predictions)],
    )
    lines, frames = request.output / "actions.jsonl", request.output / "frames"
    split = Dataset.open(dataset).split(SPLIT)
    people = read_predictions(predictions, min_score=request.min_score)
    label_map = LabelMap.read(run / "label_map.pbtxt")

    def write() -> None:
        _write_results(split, people, label_map, lines, frames)
        watched.check()

    stages.make(
        "results",
        write,
        asked=["--min-score", str(request.min_score)],
        inputs=content | {"predictions": stages.digest(predictions), "label_map": label_map.digest},
        products=[Product(lines), Product(frames)],
    )
    return sum(len(found) for found in people.values())


def _detect(
    stages: Stages,
    request: InferenceRequest,
    dataset_name: str,
    dataset: Path,
    content: dict[str, str],
    watched: "_Unchanged",
) -> Path:
    """Have the proposals of this very detector in the store; return their file."""
    if request.detector_weights is None:
        stem, model = _ask_detector(request.detector_services)
    else:
        stem, model = request.detector_weights.stem, stages.digest(request.detector_weights)
    name = _stored_name(stem, [model, *request.detector_options])
    proposals = request.store / "proposals" / dataset_name / SPLIT / f"{name}.h5"
    if _is_readable(proposals):
        click.echo(f"  {'detect':<40} in the store already")
        return proposals
    private = request.detector_weights is not None
    options = ("--weights", str(request.detector_weights), *request.detector_options)
    with Service("detector", request.output, *options) if private else nullcontext() as service:
        addresses = service.address if service else ",".join(client.address for client in request.detector_services)
        stages.run(
            "detect",
            *("detect", str(dataset), "--split", SPLIT, "--store", str(request.store), "--name", name),
            *("--detector", addresses),
            connection=() if private else request.detector_connection,
            inputs={"model": model, **content},
            products=[Product(proposals, kept=True)],
        )
    try:
        watched.check()
    except ConflictError:
        proposals.unlink()  # just made, of another content than its name says
        raise
    return proposals


def _ask_detector(services: tuple[ClientConfig, ...]) -> tuple[str, str]:
    """Return the name and a digest of what the running services detect with."""
    from detector_svc.client import DetectorClient, DetectorClientConfig

    async def ask() -> tuple[str, str]:
        async with DetectorClient(DetectorClientConfig(services=services)) as client:
            info = await client.info()
            return info.name, digest_of(info.model)

    return asyncio.run(ask())


def _is_readable(proposals: Path) -> bool:
    from cache.proposal_store import read_proposals

    if not proposals.exists():
        return False
    try:
        read_proposals(proposals)
    except StalError:
        return False
    return True


def _dataset_name(videos: Sequence[Path], stages: Stages) -> str:
    """A name from the first video's, and a digest of what decides about the data set: names and contents."""
    return _stored_name(videos[0].stem, sorted([video.stem, stages.digest(video)] for video in videos))


def _stored_name(stem: str, content: object) -> str:
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", stem)[:60].strip("-._") or "videos"
    return f"{readable}-{digest_of(content)[:16]}"


def _write_results(
    split: Split, people: dict[KeyFrame, list[Person]], label_map: LabelMap, lines: Path, frames: Path
) -> None:
    names = dict(zip(label_map.ids, label_map.names, strict=True))
    _write_lines(lines, split, people, names)
    frames.mkdir()
    for frame in split.key_frames:
        draw_key_frame(split, frame, people.get(frame.key, []), frames, names=names)


def _write_lines(path: Path, split: Split, people: dict[KeyFrame, list[Person]], names: dict[int, str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for frame in split.key_frames:
            for box, actions in people.get(frame.key, []):
                line = {
                    "video": frame.key.video,
                    "time_s": frame.key.timestamp,
                    "box": [round(side, 4) for side in box],
                    "actions": {names[label]: round(score, 4) for label, score in actions},
                }
                file.write(json.dumps(line) + "\n")
