"""The demo's commands, in order: what a user would type, on one machine."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import as_file, files
from itertools import product
from pathlib import Path

from cli.demo.settings import DemoSettings
from cli.stages import Service, Stages

DATASET = "synthetic"
HEADS = ("acar", "linear")
BOXES = {"ground_truth_boxes": "ground-truth", "detected_boxes": "proposals"}
DETECTOR_IMAGE_SIZE = "180x320"  # height x width of the frames
DETECTOR_MODEL = "yolov8-slim.yaml"
# The slim detector boxes one person twice at the default of 0.7.
BOX_OVERLAP = "0.5"
# A key frame has at most 5 people and 12 classes, so more rows than this change nothing.
CAPACITIES = "1:200"


@dataclass(frozen=True)
class Folders:
    """Where everything lies below the demo folder."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def store(self) -> Path:
        return self.root / "store"

    def weights(self, name: str) -> Path:
        return self.root / "weights" / name

    def predictions(self, boxes: str, head: str, seed: int) -> Path:
        return self.root / "predictions" / f"{boxes}-{head}-{seed}.csv"

    def evaluation(self, boxes: str, head: str, seed: int) -> Path:
        return self.root / "eval" / f"{boxes}-{head}-{seed}"


def run_name(head: str, seed: int) -> str:
    """Return the run id of one head training in the demo's store."""
    return f"{head}-seed{seed}"


def results(settings: DemoSettings) -> Iterator[tuple[str, str, int]]:
    """Yield (boxes, head, seed) of every evaluation that the demo makes."""
    return product(BOXES, HEADS, settings.head_seeds)


def run_workflow(stages: Stages, settings: DemoSettings, seed: int) -> Folders:
    """Run every stage up to the evaluations; finished ones are skipped."""
    folders = Folders(stages.root)
    _make_data_and_weights(stages, folders, settings, seed)
    detector = Service(
        "detector",
        stages.root,
        *("--weights", str(folders.weights("detector.pt")), "--image-size", DETECTOR_IMAGE_SIZE),
        *("--confidence", str(settings.detector_confidence), "--overlap", BOX_OVERLAP),
    )
    recognizer = Service("recognizer", stages.root, "--store", str(folders.store), "--cancel-jobs")
    with detector, recognizer:
        _fill_store(stages, folders, detector.address)
        _train_heads(stages, folders, settings, recognizer.address)
        _predict(stages, folders, settings, recognizer.address)
    _evaluate(stages, folders, settings)
    return folders


def _make_data_and_weights(stages: Stages, folders: Folders, settings: DemoSettings, seed: int) -> None:
    data = str(folders.data)
    stages.run(
        "synthesize",
        *("dataset", "synth", data, "--seed", str(seed)),
        *("--train-videos", str(settings.train_videos), "--test-videos", str(settings.test_videos)),
        produces=folders.data,
    )
    with as_file(files("detector_svc") / "models" / DETECTOR_MODEL) as model:
        stages.run(
            "train_detector",
            *("detector", "train", data, "--split", "train", "--model", str(model)),
            *("--image-size", DETECTOR_IMAGE_SIZE, "--epochs", str(settings.detector_epochs)),
            *("--max-images", str(settings.detector_images), "--output", str(folders.weights("detector.pt"))),
            produces=folders.weights("detector.pt"),
        )
    for kind, steps in (("slowfast", settings.slowfast_steps), ("vit", settings.vit_steps)):
        stages.run(
            f"train_{kind}",
            *("backbone", "train", data, "--split", "train", "--kind", kind, "--preset", settings.backbone_preset),
            *("--steps", str(steps), "--seed", "0", "--output", str(folders.weights(f"{kind}.safetensors"))),
            produces=folders.weights(f"{kind}.safetensors"),
        )


def _fill_store(stages: Stages, folders: Folders, detector: str) -> None:
    data, store = str(folders.data), str(folders.store)
    stages.run(
        "detect",
        *("detect", data, "--split", "test", "--store", store, "--detector", detector),
        produces=folders.store / "proposals",
    )
    weights = [
        word for kind in ("slowfast", "vit") for word in (f"--{kind}", str(folders.weights(f"{kind}.safetensors")))
    ]
    for split, views in (("train", ("identity", "hflip")), ("test", ("identity",))):
        stages.run(
            f"precompute_{split}",
            *("precompute", data, "--split", split, "--store", store, *weights),
            *(word for view in views for word in ("--view", view)),
            produces=folders.store / "features" / DATASET / split,
            resumable=True,
        )


def _train_heads(stages: Stages, folders: Folders, settings: DemoSettings, recognizer: str) -> None:
    overrides = [word for value in settings.train_overrides for word in ("--set", value)]
    ranks = {"acar": 2, "linear": 1}
    for head, seed in product(HEADS, settings.head_seeds):
        stages.run(
            f"train_{run_name(head, seed)}",
            *("train", head, "--store", str(folders.store), "--run-id", run_name(head, seed)),
            *("--set", f"training.seed={seed}", *overrides),
            *("--nproc-per-node", str(ranks[head]), "--recognizer", recognizer),
            produces=folders.store / "runs" / run_name(head, seed),
        )


def _predict(stages: Stages, folders: Folders, settings: DemoSettings, recognizer: str) -> None:
    for boxes, head, seed in results(settings):
        stages.run(
            f"predict_{boxes}-{run_name(head, seed)}",
            *("predict", "--run", run_name(head, seed), "--dataset", DATASET, "--split", "test"),
            *("--boxes", BOXES[boxes], "--store", str(folders.store)),
            *("--output", str(folders.predictions(boxes, head, seed)), "--recognizer", recognizer),
            produces=folders.predictions(boxes, head, seed),
        )


def _evaluate(stages: Stages, folders: Folders, settings: DemoSettings) -> None:
    annotations = folders.data / "annotations"
    for boxes, head, seed in results(settings):
        stages.run(
            f"eval_{boxes}-{run_name(head, seed)}",
            *("eval", "--predictions", str(folders.predictions(boxes, head, seed))),
            *(
                "--ground-truth",
                str(annotations / "test_gt.csv"),
                "--label-map",
                str(annotations / "list_action.pbtxt"),
            ),
            *("--capacities", CAPACITIES, "--report", "--frames", str(folders.data)),
            *("--output", str(folders.evaluation(boxes, head, seed))),
            produces=folders.evaluation(boxes, head, seed),
        )
