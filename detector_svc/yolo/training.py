"""Fine-tunes a YOLO person detector on a data set's annotations, through Ultralytics."""

import hashlib
import io
import json
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cache.exact_float32 import exact_float32
from detector_svc.detector_protocol import DetectorConfig
from detector_svc.yolo.network_checks import UnfitError
from detector_svc.yolo.offline_ultralytics import import_ultralytics, provide_font
from detector_svc.yolo.recall_precision import Quality, measure
from detector_svc.yolo.torch_network import TorchNetwork, check_kind, check_path, choose_device
from detector_svc.yolo.yolo_detector import YoloDetector
from detector_svc.yolo.yolo_folders import YoloPart, write_yolo_folder
from stal_data.amounts import amount
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


def train_detector(
    config: DetectorTrainConfig,
    train: YoloPart,
    val: YoloPart,
    output: Path,
    *,
    report: Report = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
) -> Quality:
    """Convert, train, write the best weights to `output`, then measure them on `val`: the numbers go into output.json.

    Whatever ends this early, the best weights so far stay: in `output`, or beside it as the error says; after SIGKILL
    the next training that writes there brings them to light. say: is told where they are.
    """
    if output.suffix != ".pt":
        raise InputError(f"--output '{output}' must end in .pt.")
    check_path(output)
    numbers_path = output.with_suffix(".json")
    if numbers_path.is_dir():
        raise InputError(f"'{numbers_path}' is a folder, but the numbers go there: choose another --output.")
    serving = DetectorConfig(
        weights=output,
        image_size=(config.height, config.width),
        confidence=config.confidence,
        device=config.device,
        name="trained",
    )
    model = _open_start(config)

    def rescue(work: Path, name: str) -> None:
        if (kept := _keep(work, output.with_name(name))) is not None:
            say(f"A training of '{name}' was killed; its best weights are kept in '{kept}'.")

    with work_folder(output.absolute(), suffix=".training", rescue=rescue) as work:
        data = write_yolo_folder(work / "data", train, val, progress=lambda done, total: report("images", done, total))
        try:
            best, own_metrics = _run_ultralytics(model, config, data.data_yaml, work, report)
            content = _plain(best, (config.height, config.width))
            write_atomically(output, content)
        except BaseException as error:
            kept = _keep(work, output)
            if kept is None:
                raise
            where = f"The best weights so far are kept in '{kept}'; --weights starts from them."
            if not isinstance(error, Exception):  # Ctrl-C
                say(where)
                raise
            raise StalError(f"The training ended early ({_reason(error)}). {where}") from error

    def write_numbers(quality: Quality | None, library: str | None) -> None:
        numbers = {
            "recall_at_iou_0.5": quality and quality.recall,
            "recall_by_box_size": quality and quality.recall_by_size(),
            "precision_at_iou_0.5": quality and quality.precision,
            "confidence": config.confidence,
            "val_images": data.val_images,
            "val_people": quality and quality.people,
            "val_boxes": quality and quality.boxes,
            "train_images": data.images,
            "train_boxes": data.boxes,
            "ultralytics": own_metrics,
            "weights": f"sha256:{hashlib.sha256(content).hexdigest()}",
            "library": library,
        }
        write_atomically(numbers_path, json.dumps(numbers, indent=2) + "\n")

    say(f"{output}: the weights are written; measuring them on {amount(data.val_images, 'key frame')}")
    try:
        write_numbers(None, None)  # those of older weights must not stay beside these
        detector = YoloDetector(serving)
        quality = measure(detector, val)
        write_numbers(quality, detector.library)
    except Exception as error:
        raise StalError(
            f"The trained weights are kept in '{output}', but measuring them failed ({_reason(error)})."
        ) from error
    return quality


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") if isinstance(error, StalError) else f"{type(error).__name__}: {error}"


def _keep(work: Path, output: Path) -> Path | None:
    """Move the checkpoint of an unfinished training out of `work`, which needs no space, and return where it is."""
    for name in ("best.pt", "last.pt"):
        checkpoint = work / "run" / "weights" / name
        if zipfile.is_zipfile(checkpoint):  # one that was being written is none
            # Under a name of its own: there may be one of an earlier attempt.
            kept = output.with_name(f"{output.stem}.unfinished-{uuid.uuid4().hex[:8]}.pt")
            checkpoint.replace(kept)
            return kept
    return None


def _open_start(config: DetectorTrainConfig) -> Any:
    """Return Ultralytics' model of the weights or the description; what cannot become a detector is an error."""
    choose_device(config.device)
    import_ultralytics()
    provide_font()
    from ultralytics.models import YOLO

    if config.start.suffix == ".pt":
        TorchNetwork(config.start, "cpu")  # explains what is wrong with the file
    with _clear_errors(config):
        model = YOLO(str(config.start.absolute()), task="detect")
    try:
        check_kind(model.model)
    except UnfitError as error:
        raise InputError(f"The model '{config.start}' {error}. Give one of YOLO detection.") from None
    return model


@contextmanager
def _clear_errors(config: DetectorTrainConfig) -> Iterator[None]:
    try:
        yield
    except StalError:
        raise
    except Exception as error:  # whatever a description or weights make it stumble over
        raise InputError(f"Ultralytics could not train '{config.start}': {type(error).__name__}: {error}") from error


def _run_ultralytics(
    model: Any, config: DetectorTrainConfig, data_yaml: Path, work: Path, show: Report
) -> tuple[Path, dict[str, float]]:
    """Return the best epoch's checkpoint and Ultralytics' own validation numbers."""
    from ultralytics.models.yolo.detect import DetectionTrainer

    exact_float32()
    device = choose_device(config.device)

    batches = 0

    def on_epoch(trainer: Any) -> None:
        losses = " ".join(f"{name} {float(value):.2f}" for name, value in trainer.tloss.items())
        show(losses, trainer.epoch + 1, trainer.epochs)

    def on_batch(trainer: Any) -> None:
        nonlocal batches
        batches += 1
        show("batches", batches, trainer.epochs * len(trainer.train_loader))

    model.add_callback("on_train_batch_end", on_batch)
    model.add_callback("on_train_epoch_end", on_epoch)
    with _clear_errors(config):
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
    trainer: Any = model.trainer
    best = Path(trainer.best if Path(trainer.best).is_file() else trainer.last)
    return best, {name: round(float(value), 5) for name, value in trainer.metrics.items()}


def _plain(checkpoint: Path, image_size: tuple[int, int]) -> bytes:
    """Return what loading needs: no date and no path of this machine, so that the same weights have the same digest.

    image_size: height and width, which serving takes by default.
    """
    from ultralytics.nn.tasks import load_checkpoint

    model, found = load_checkpoint(str(checkpoint), device="cpu")  # type: ignore[no-untyped-call]
    for name in ("args", "pt_path", "criterion"):
        if hasattr(model, name):
            delattr(model, name)
    for parameter in model.parameters():
        parameter.requires_grad = False
    # Through a buffer: a file's own name would go into the archive.
    buffer = io.BytesIO()
    kept = {"version": found.get("version"), "license": found.get("license"), "train_args": {"imgsz": list(image_size)}}
    torch.save({"model": model.half(), **kept}, buffer)
    return buffer.getvalue()
