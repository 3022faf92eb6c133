"""Fine-tunes a YOLO person detector on a data set's annotations, through Ultralytics."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from detector_svc.offline import import_ultralytics, provide_font
from detector_svc.quality import Quality, measure
from detector_svc.torch_network import choose_device, load_model
from detector_svc.yolo import YoloConfig, YoloDetector
from detector_svc.yolo_format import YoloPart, write_yolo_folder
from stal_data.errors import InputError, NotFoundError, StalError
from stal_data.files import write_atomically
from stal_data.work_folder import work_folder

Report = Callable[[str, int, int], None]
"""Called with what is counted, done and total: `images` converted, `batches` trained, or an epoch's losses."""


@dataclass(frozen=True, kw_only=True)
class DetectorTrainConfig:
    """Hyper-parameters as Ultralytics names them."""

    start: Path
    """Weights (.pt) to fine-tune, or a model YAML to train from scratch."""
    height: int
    width: int
    epochs: int
    batch: int = 4
    nbs: int | None = None
    """Images per optimizer step; None: the batch. Ultralytics' own 64 makes too few steps of a small data set."""
    scale: float = 0.2
    """Images are zoomed by 1 - scale to 1 + scale; Ultralytics' own 0.5 suits moving cameras and long trainings."""
    translate: float = 0.05
    """Images are moved by at most this share of their size."""
    optimizer: str = "AdamW"
    lr0: float = 3e-3
    mosaic: bool = False
    """Put four images into one; needs a square image size, since rectangular batches exclude it."""
    workers: int = 2
    """Loader processes; none are used on the CPU."""
    seed: int = 0
    device: str = "auto"
    confidence: float = 0.3
    """At which recall and precision are measured."""

    def __post_init__(self) -> None:
        if not self.start.is_file():
            raise NotFoundError(f"The model '{self.start}' does not exist; nothing is downloaded.")
        if self.start.suffix not in (".pt", ".yaml", ".yml"):
            raise InputError(f"The model '{self.start}' must be weights (.pt) or a model description (.yaml).")
        if self.epochs < 1 or self.batch < 1:
            raise InputError(f"--epochs {self.epochs} and --batch {self.batch} must be at least 1.")
        if not (0 <= self.scale < 1 and 0 <= self.translate < 1):
            raise InputError(f"--scale {self.scale} and --translate {self.translate} must be at least 0 and below 1.")
        if self.mosaic and self.height != self.width:
            raise InputError("--mosaic needs a square image size; leave it out, or give e.g. --image-size 320x320.")


@dataclass(frozen=True, kw_only=True)
class TrainedDetector:
    """What a training left behind."""

    weights: Path
    metrics: Path
    quality: Quality


def train_detector(
    config: DetectorTrainConfig, train: YoloPart, val: YoloPart, output: Path, *, report: Report | None = None
) -> TrainedDetector:
    """Convert, train, measure on `val`, then write the best weights to `output` and the numbers to output.json."""
    if output.suffix != ".pt":
        raise InputError(f"--output '{output}' must end in .pt.")
    show: Report = report or (lambda stage, done, total: None)  # noqa: ARG005
    with work_folder(output.absolute()) as work:
        data = write_yolo_folder(work / "data", train, val, progress=lambda done, total: show("images", done, total))
        best, own_metrics = _run_ultralytics(config, data.data_yaml, work, show)
        finished = work / output.name
        _save_plain(best, finished)
        detector = YoloDetector(
            YoloConfig(
                weights=finished,
                height=config.height,
                width=config.width,
                confidence=config.confidence,
                device=config.device,
                name="trained",
            )
        )
        quality = measure(detector, val)
        metrics = {
            "recall_at_iou_0.5": quality.recall,
            "precision_at_iou_0.5": quality.precision,
            "confidence": config.confidence,
            "val_images": data.val_images,
            "val_people": quality.people,
            "val_boxes": quality.boxes,
            "train_images": data.images,
            "train_boxes": data.boxes,
            "ultralytics": own_metrics,
            "weights": detector.weights_digest,
            "library": detector.library,
        }
        metrics_path = output.with_suffix(".json")
        write_atomically(output, finished.read_bytes())
        write_atomically(metrics_path, json.dumps(metrics, indent=2) + "\n")
    return TrainedDetector(weights=output, metrics=metrics_path, quality=quality)


def _run_ultralytics(
    config: DetectorTrainConfig, data_yaml: Path, work: Path, show: Report
) -> tuple[Path, dict[str, float]]:
    """Return the best epoch's checkpoint and Ultralytics' own validation numbers."""
    import_ultralytics()
    provide_font()
    from ultralytics.models import YOLO
    from ultralytics.models.yolo.detect import DetectionTrainer

    if config.start.suffix == ".pt":
        load_model(config.start)  # explains what is wrong with a damaged file
    device = choose_device(config.device)

    batches = 0

    def on_epoch(trainer: Any) -> None:
        losses = " ".join(f"{name} {float(value):.2f}" for name, value in trainer.tloss.items())
        show(losses, trainer.epoch + 1, trainer.epochs)

    def on_batch(trainer: Any) -> None:
        nonlocal batches
        batches += 1
        show("batches", batches, trainer.epochs * len(trainer.train_loader))

    try:
        model = YOLO(str(config.start.absolute()), task="detect")
        model.add_callback("on_train_batch_end", on_batch)
        model.add_callback("on_train_epoch_end", on_epoch)
        model.train(
            trainer=DetectionTrainer,
            data=str(data_yaml),
            epochs=config.epochs,
            batch=config.batch,
            nbs=config.nbs or config.batch,
            imgsz=max(config.height, config.width),  # the longer side: with rect, batches keep their aspect ratio
            rect=config.height != config.width,
            mosaic=float(config.mosaic),
            optimizer=config.optimizer,
            lr0=config.lr0,
            # Ultralytics warms up for 3 epochs however few there are.
            warmup_epochs=min(3.0, config.epochs / 10),
            scale=config.scale,
            translate=config.translate,
            seed=config.seed,
            workers=config.workers,
            device=str(device).removeprefix("cuda:"),
            project=str(work),
            name="run",
            # Each of these would download something or draw pictures.
            amp=False,
            plots=False,
            verbose=False,
        )
    except StalError:
        raise
    except (RuntimeError, ValueError, TypeError, SyntaxError, FileNotFoundError, KeyError) as error:
        raise InputError(f"Ultralytics could not train '{config.start}': {type(error).__name__}: {error}") from error
    trainer: Any = model.trainer
    best = Path(trainer.best if Path(trainer.best).is_file() else trainer.last)
    return best, {name: round(float(value), 5) for name, value in trainer.metrics.items()}


def _save_plain(checkpoint: Path, target: Path) -> None:
    """Save only what loading needs: no date and no paths of this machine, so the same weights have the same digest."""
    from ultralytics.nn.tasks import load_checkpoint

    model, found = load_checkpoint(str(checkpoint), device="cpu")  # type: ignore[no-untyped-call]
    for name in ("args", "pt_path", "criterion"):
        if hasattr(model, name):
            delattr(model, name)
    for parameter in model.parameters():
        parameter.requires_grad = False
    # Through a buffer: a file's own name would go into the archive.
    buffer = io.BytesIO()
    torch.save({"model": model.half(), "version": found.get("version"), "license": found.get("license")}, buffer)
    target.write_bytes(buffer.getvalue())
