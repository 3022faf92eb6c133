"""What `infer` does: the workflow's commands on a data set made of the given videos, then the readable results.

What goes into the store is named by the content that it was made from, so that other runs and other output folders
find it there, and nothing of another content ever has its name.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.backbones import backbone_of
from cache.files import locked
from cli.ui.backbone_options import BackboneChoice
from cli.workflow.annotated import Person, draw_key_frame, read_predictions
from cli.workflow.detect_stage import Detector, detect
from cli.workflow.feature_stage import precompute
from cli.workflow.fingerprints import RUN_PARTS, Unchanged
from cli.workflow.output_folder import claimed
from cli.workflow.stages import Product, Stages
from cli.workflow.stored_names import stored_name
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.runs.trained_on import features_trained_on
from stal_data.dataset import Dataset, Split
from stal_data.errors import NotFoundError
from stal_data.files import write_atomically
from stal_data.keyframes import KeyFrame
from stal_data.labels import LabelMap

SPLIT = "all"


@dataclass(frozen=True, kw_only=True)
class InferenceRequest:
    """One call of `infer`."""

    videos: tuple[Path, ...]
    store: Path
    run_id: str
    backbones: tuple[BackboneChoice, ...]
    detector: Detector
    flip_average: bool
    fuse_confidence: bool
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


def _as_trained(run: RunDir, kinds: Sequence[str]) -> list[str]:
    """The options of precompute for features that the run's head can read."""
    found = features_trained_on(run)
    if found is None:
        return []
    spec, given = found
    words = [] if spec.autocast == "none" else ["--autocast", spec.autocast]
    for backbone in (item for item in spec.backbones if item.kind in kinds):
        for name in backbone.statistics:
            # Of all time steps, what the head is given serves it.
            arrays = [array for array, stored in backbone.readable.items() if array.name in (stored, *given)]
            wanted = tuple(array.statistic for array in arrays if array.map == name)
            if wanted != backbone_of(backbone.kind).maps[name]:
                words += ["--statistics", f"{name}={','.join(wanted)}"]
    return words


def _infer(stages: Stages, request: InferenceRequest, run: Path) -> int:
    predictions, dataset = request.output / "predictions.csv", request.output / "dataset"
    watched = Unchanged(request.videos)
    videos = {str(video): stages.digest(video) for video in request.videos}
    name = stored_name(request.videos[0].stem, sorted([video.stem, stages.digest(video)] for video in request.videos))
    stages.run(
        "dataset",
        *("dataset", "from-videos", *videos, "--output", str(dataset), "--name", name),
        inputs=videos,
        products=[Product(dataset)],
    )
    content = {"dataset": stages.digest(dataset), **videos}
    # Whoever works on the same videos at the same time waits here, and then finds that all is done.
    with locked(request.store / "features" / name / SPLIT / ".locks" / "infer.lock"):
        proposals = detect(
            stages,
            request.detector,
            folder=dataset,
            store=request.store,
            dataset=name,
            split=SPLIT,
            inputs=content,
            videos=watched,
        )
        files = [Path(choice.weights) for choice in request.backbones if choice.weights is not None]
        words = [word for choice in request.backbones for word in choice.words()]
        if request.flip_average:
            words += ["--view", "identity", "--view", "hflip"]
        views = precompute(
            stages,
            "precompute",
            *(str(dataset), "--split", SPLIT, "--store", str(request.store), *words),
            *_as_trained(RunDir(run), [choice.kind for choice in request.backbones]),
            store=request.store,
            dataset=name,
            split=SPLIT,
            inputs=content | {str(path): stages.digest(path) for path in files if path.is_file()},
        )
        made = " ".join(f"--set {features.path.name}" for features in views)
        watched.check(f" Delete the features: stal-cli cache prune {request.store} {made} --dataset {name}")
    made_from = {"run": stages.digest(run, RUN_PARTS), "proposals": stages.digest(proposals)}
    for name_of_view, view in zip(("features", "mirrored_features"), views, strict=False):
        made_from[name_of_view] = stages.digest(view.path, view.parts)
    scoring = {"--flip-average": request.flip_average, "--fuse-confidence": request.fuse_confidence}
    stages.run(
        "predict",
        *("predict", "--run", request.run_id, "--dataset", name, "--split", SPLIT),
        *("--boxes", f"proposals:{proposals.stem}", "--feature-set", views[0].path.name),
        *(option for option, chosen in scoring.items() if chosen),
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


def _write_results(
    split: Split, people: dict[KeyFrame, list[Person]], label_map: LabelMap, lines: Path, frames: Path
) -> None:
    names = dict(zip(label_map.ids, label_map.names, strict=True))
    frames.mkdir()
    try:
        for frame in split.key_frames:
            draw_key_frame(split, frame, people.get(frame.key, []), frames, names=names)
        write_atomically(lines, "".join(f"{line}\n" for line in _lines(split, people, names)))
    except BaseException:
        shutil.rmtree(frames, ignore_errors=True)  # half of them is no result
        raise


def _lines(split: Split, people: dict[KeyFrame, list[Person]], names: dict[int, str]) -> Iterator[str]:
    for frame in split.key_frames:
        for box, actions, _ in people.get(frame.key, []):
            line = {
                "video": frame.key.video,
                "time_s": frame.key.time_ms // 1000,  # the split of these videos has their whole seconds
                "box": [round(side, 4) for side in box],
                "actions": {names[label]: round(score, 4) for label, score in actions},
            }
            yield json.dumps(line)
