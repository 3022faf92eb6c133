"""What `infer` does: the workflow's commands on a data set made of the given videos, then the readable results."""

import json
import re
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from cli.annotated import Person, draw_key_frame, read_predictions
from cli.stages import Service, Stages
from stal_data.dataset import Dataset, Split
from stal_data.errors import NotFoundError
from stal_data.keyframes import KeyFrame
from stal_data.labels import LabelMap

SPLIT = "all"


@dataclass(frozen=True, kw_only=True)
class InferenceRequest:
    """One call of `infer`. Either detector_options (start a private service) or detector_address is given."""

    videos: tuple[Path, ...]
    store: Path
    run_id: str
    backbone_options: tuple[str, ...]
    detector_options: tuple[str, ...]
    detector_address: str | None
    detector_connection: tuple[str, ...]
    """Options of `detect` that say how to reach that address."""
    min_score: float
    output: Path

    @property
    def dataset_name(self) -> str:
        """A name from the first video's, and a hash of all paths so that two `street.mp4` do not meet in the store."""
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", self.videos[0].stem).strip("-._") or "videos"
        paths = "\0".join(str(video) for video in self.videos)
        return f"{stem}-{blake2b(paths.encode(), digest_size=4).hexdigest()}"


def run_inference(request: InferenceRequest) -> int:
    """Run every stage and write the results; return the number of people scored, over all key frames."""
    label_map_path = request.store / "runs" / request.run_id / "label_map.pbtxt"
    if not label_map_path.exists():
        raise NotFoundError(
            f"--run {request.run_id!r}: no such run in {request.store}. `stal-cli runs list --store {request.store}` "
            "lists them."
        )
    output = request.output
    output.mkdir(parents=True, exist_ok=True)
    stages = Stages(output)
    predictions = output / "predictions.csv"
    _run_stages(stages, request, predictions)
    split = Dataset.open(output / "dataset").split(SPLIT)
    people = read_predictions(predictions, min_score=request.min_score)
    names = _names(LabelMap.read(label_map_path))
    _write_lines(output / "actions.jsonl", split, people, names)
    frames = output / "frames"
    frames.mkdir(exist_ok=True)
    for frame in split.key_frames:
        draw_key_frame(split, frame, people.get(frame.key, []), frames, names=names)
    return sum(len(found) for found in people.values())


def _run_stages(stages: Stages, request: InferenceRequest, predictions: Path) -> None:
    dataset, name, store = str(request.output / "dataset"), request.dataset_name, str(request.store)
    stages.run(
        "dataset",
        *("dataset", "from-videos", *map(str, request.videos), "--output", dataset, "--name", name),
        produces=Path(dataset),
    )
    private = request.detector_address is None
    with Service("detector", request.output, *request.detector_options) if private else nullcontext() as service:
        address = service.address if service is not None else str(request.detector_address)
        stages.run(
            "detect",
            *("detect", dataset, "--split", SPLIT, "--store", store, "--detector", address),
            connection=() if private else request.detector_connection,
            produces=request.store / "proposals" / name,
        )
    stages.run(
        "precompute",
        *("precompute", dataset, "--split", SPLIT, "--store", store, *request.backbone_options),
        produces=request.store / "features" / name,
        resumable=True,
    )
    stages.run(
        "predict",
        *("predict", "--run", request.run_id, "--dataset", name, "--split", SPLIT, "--boxes", "proposals"),
        *("--store", store, "--output", str(predictions)),
        produces=predictions,
    )


def _names(label_map: LabelMap) -> dict[int, str]:
    return dict(zip(label_map.ids, label_map.names, strict=True))


def _write_lines(path: Path, split: Split, people: dict[KeyFrame, list[Person]], names: dict[int, str]) -> None:
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        for frame in split.key_frames:
            for box, actions in people.get(frame.key, []):
                line = {
                    "video": frame.key.video,
                    "time_s": frame.key.timestamp,
                    "box": [round(side, 4) for side in box],
                    "actions": {names[label]: round(score, 4) for label, score in actions},
                }
                file.write(json.dumps(line) + "\n")
    unfinished.replace(path)
