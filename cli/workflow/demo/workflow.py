"""The demo's commands, in order: what a user would type, on one machine."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import as_file, files
from itertools import product
from pathlib import Path

from cli.workflow.demo.heads import HEADS
from cli.workflow.demo.settings import DemoSettings
from cli.workflow.feature_stage import precompute
from cli.workflow.fingerprints import RUN_BESIDE, RUN_PARTS
from cli.workflow.stages import Product, Service, Stages

DATASET = "synthetic"
DETECTOR = "detector"
BOXES = {"ground_truth_boxes": "ground-truth", "detected_boxes": f"proposals:{DETECTOR}"}
DETECTOR_IMAGE_SIZE = "180x320"  # height x width of the frames
DETECTOR_MODEL = "yolov8-slim.yaml"
# The slim detector boxes one person twice at the default of 0.7.
BOX_OVERLAP = "0.5"
# Of SlowFast's maps; from the mean alone nobody tells who chases whom.
STATISTICS = ("slow=mean,slope", "fast=mean,slope")
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

    @property
    def proposals(self) -> Path:
        return self.store / "proposals" / DATASET / "test" / f"{DETECTOR}.h5"

    def run(self, head: str, seed: int) -> Product:
        return Product(self.store / "runs" / run_name(head, seed), RUN_PARTS, beside=RUN_BESIDE)

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
    """Run every stage up to the evaluations; what is up to date is skipped."""
    folders = Folders(stages.root)
    _make_data_and_weights(stages, folders, settings, seed)
    options = (
        *("--image-size", DETECTOR_IMAGE_SIZE),
        *("--confidence", str(settings.detector_confidence), "--overlap", BOX_OVERLAP),
    )
    detector = Service("detector", stages.root, "--weights", str(folders.weights("detector.pt")), *options)
    recognizer = Service("recognizer", stages.root, "--store", str(folders.store), "--cancel-jobs")
    with detector, recognizer:
        _detect(stages, folders, detector, options)
        features = _precompute(stages, folders)
        _train_heads(stages, folders, settings, recognizer, features["train"])
        _predict(stages, folders, settings, recognizer, features["test"])
    _evaluate(stages, folders, settings)
    return folders


def _digests(stages: Stages, *paths: Path) -> dict[str, str]:
    return {path.relative_to(stages.root).as_posix(): stages.digest(path) for path in paths}


def _make_data_and_weights(stages: Stages, folders: Folders, settings: DemoSettings, seed: int) -> None:
    data = str(folders.data)
    stages.run(
        "synthesize",
        *("dataset", "synth", data, "--seed", str(seed)),
        *("--train-videos", str(settings.train_videos), "--test-videos", str(settings.test_videos)),
        inputs={},
        products=[Product(folders.data)],
    )
    with as_file(files("detector_svc") / "models" / DETECTOR_MODEL) as model:
        stages.run(
            "train_detector",
            *("detector", "train", data, "--split", "train", "--model", str(model)),
            *("--image-size", DETECTOR_IMAGE_SIZE, "--epochs", str(settings.detector_epochs)),
            *("--max-images", str(settings.detector_images), "--output", str(folders.weights("detector.pt"))),
            inputs=_digests(stages, folders.data) | {"model": stages.digest(model)},
            products=[Product(folders.weights("detector.pt")), Product(folders.weights("detector.json"))],
        )
    for kind, steps in (("slowfast", settings.slowfast_steps), ("vit", settings.vit_steps)):
        stages.run(
            f"train_{kind}",
            *("backbone", "train", data, "--split", "train", "--kind", kind, "--preset", settings.backbone_preset),
            *("--steps", str(steps), "--seed", "0", "--output", str(folders.weights(f"{kind}.safetensors"))),
            inputs=_digests(stages, folders.data),
            products=[Product(folders.weights(f"{kind}.safetensors"))],
        )


def _detect(stages: Stages, folders: Folders, detector: Service, options: tuple[str, ...]) -> None:
    stages.run(
        "detect",
        *("detect", str(folders.data), "--split", "test", "--store", str(folders.store), "--name", DETECTOR),
        connection=lambda: ("--detector", detector.address),
        inputs=_digests(stages, folders.data, folders.weights("detector.pt")) | {"service": " ".join(options)},
        products=[Product(folders.proposals, kept=True)],
    )


def _precompute(stages: Stages, folders: Folders) -> dict[str, list[Product]]:
    """Return the feature sets of each split, in the order of their views."""
    weights = {kind: folders.weights(f"{kind}.safetensors") for kind in ("slowfast", "vit")}
    return {
        split: precompute(
            stages,
            f"precompute_{split}",
            *(str(folders.data), "--split", split, "--store", str(folders.store)),
            *(word for kind, path in weights.items() for word in (f"--{kind}", str(path))),
            *(word for view in views for word in ("--view", view)),
            *(word for kept in STATISTICS for word in ("--statistics", kept)),
            store=folders.store,
            dataset=DATASET,
            split=split,
            inputs=_digests(stages, folders.data, *weights.values()),
        )
        for split, views in (("train", ("identity", "hflip")), ("test", ("identity",)))
    }


def _feature_digests(stages: Stages, features: list[Product]) -> dict[str, str]:
    return {item.path.name: stages.digest(item.path, item.parts) for item in features}


def _train_heads(
    stages: Stages, folders: Folders, settings: DemoSettings, recognizer: Service, features: list[Product]
) -> None:
    common = (f"data.feature_set={features[0].path.name}", *settings.train_overrides)
    for (name, head), seed in product(HEADS.items(), settings.head_seeds):
        values = (*head.overrides, f"training.seed={seed}", *common)
        stages.run(
            f"train_{run_name(name, seed)}",
            *("train", head.recipe, "--store", str(folders.store), "--run-id", run_name(name, seed)),
            *(word for value in values for word in ("--set", value)),
            *("--nproc-per-node", str(head.processes)),
            connection=lambda: ("--recognizer", recognizer.address),
            inputs=_digests(stages, folders.data) | _feature_digests(stages, features),
            products=[folders.run(name, seed)],
        )


def _predict(
    stages: Stages, folders: Folders, settings: DemoSettings, recognizer: Service, features: list[Product]
) -> None:
    for boxes, head, seed in results(settings):
        run = folders.run(head, seed)
        stages.run(
            f"predict_{boxes}-{run_name(head, seed)}",
            *("predict", "--run", run_name(head, seed), "--dataset", DATASET, "--split", "test"),
            *("--boxes", BOXES[boxes], "--feature-set", features[0].path.name, "--store", str(folders.store)),
            *("--output", str(folders.predictions(boxes, head, seed))),
            connection=lambda: ("--recognizer", recognizer.address),
            inputs=_digests(stages, folders.data, folders.proposals)
            | _feature_digests(stages, features)
            | {"run": stages.digest(run.path, run.parts)},
            products=[Product(folders.predictions(boxes, head, seed))],
        )


def _evaluate(stages: Stages, folders: Folders, settings: DemoSettings) -> None:
    annotations = folders.data / "annotations"
    for boxes, head, seed in results(settings):
        predictions = folders.predictions(boxes, head, seed)
        stages.run(
            f"eval_{boxes}-{run_name(head, seed)}",
            *("eval", "--predictions", str(predictions)),
            *(
                "--ground-truth",
                str(annotations / "test_gt.csv"),
                "--label-map",
                str(annotations / "list_action.pbtxt"),
            ),
            *("--capacities", CAPACITIES, "--report", "--frames", str(folders.data)),
            *("--output", str(folders.evaluation(boxes, head, seed))),
            inputs=_digests(stages, predictions, folders.data),
            products=[Product(folders.evaluation(boxes, head, seed))],
        )
