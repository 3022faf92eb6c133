"""What a model card says of a packed model, in Markdown."""

from recognizer_svc.losses import Loss
from recognizer_svc.losses.sigmoid import Sigmoid
from recognizer_svc.packed_models.description import PackedModel
from recognizer_svc.training.checkpoint import Checkpoint
from recognizer_svc.training.recipe import Recipe
from stal_data.amounts import amount

_BOXES = {"detected": "a detector's", "both": "the annotated people's, and a detector's in clips of their own"}


def model_card(model: PackedModel, checkpoint: Checkpoint, name: str) -> str:
    """Return the card. name: of the checkpoint."""
    recipe, progress, spec = checkpoint.recipe, checkpoint.progress, model.feature_spec
    scored = "none" if progress.validation_map is None else f"{progress.validation_map:.4f} ({recipe.validated_on})"
    backbones = [f"| {item.kind} | {item.preset} | `{item.weights}` |" for item in spec.backbones]
    classes = [
        f"- {label.id}: {label.name}{label.type and f' ({label.type})'}" for label in checkpoint.label_map.labels
    ]
    lines = [
        f"# {model.run}",
        "",
        f"A head `{recipe.head.kind}` of STAL: it turns the cached features of a key frame and the boxes of its people",
        f"into {checkpoint.label_map.num_classes} action scores in [0,1] for each person.",
        "",
        "| | |",
        "|---|---|",
        f"| recipe | `{recipe.name}` (recipe.yaml) |",
        f"| checkpoint | {name}, after {amount(progress.epochs_done, 'epoch')} |",
        f"| trained on | {recipe.data.trained_on}, seed {recipe.training.seed} |",
        *_unusual(recipe),
        f"| validation mAP | {scored} |",
        f"| digest of the tensors | `{model.head}` |",
        "",
        "Validation mAP is of ground-truth boxes with every row kept. It says nothing of detected boxes, and where the",
        "head or its settings were chosen by it, it flatters them: report the mAP of a test split (`stal-cli eval`).",
        "",
        "## Features",
        "",
        f"The head takes features of these backbones (clips decoded by `{spec.decoder}`, stored as {spec.dtype}):",
        "",
        "| backbone | preset | weights |",
        "|---|---|---|",
        *backbones,
        "",
        *_detector(model),
        "## Use",
        "",
        "Who does what in a video, with the folder of this file as MODEL:",
        "",
        "    stal-cli infer VIDEO --model MODEL --output OUTPUT",
        "",
        "In a store with features of these backbones:",
        "",
        "    stal-cli models install MODEL --store STORE",
        f"    stal-cli predict --run {model.run_id} --store STORE --dataset DATASET --split SPLIT \\",
        "      --boxes proposals --output predictions.csv",
        "",
        "## Classes",
        "",
        *classes,
        "",
    ]
    return "\n".join(lines)


def _detector(model: PackedModel) -> list[str]:
    detector = model.detector
    if detector is None:
        return []
    size = "the size of its training" if detector.image_size is None else "{}x{}".format(*detector.image_size)
    return [
        "## Detector",
        "",
        f"`{detector.name}`, `{detector.digest}`: input {size}, confidence from {detector.confidence}, one person",
        f"above an IoU of {detector.overlap}.",
        "",
    ]


def _unusual(recipe: Recipe) -> list[str]:
    data, training = recipe.data, recipe.training
    rows = {
        "boxes in training": _BOXES.get(data.boxes),
        "neighbouring key frames": data.neighbours
        and f"{data.neighbours} before and {data.neighbours} after, {data.neighbour_ms} ms apart",
        "feature bank": data.bank_s and f"of the people within {data.bank_s} s",
        "loss": recipe.loss != Sigmoid() and _settings(recipe.loss),
        "forward pass of training": training.autocast != "none" and f"autocast to {training.autocast}",
        "weights": training.ema_decay and f"exponential moving averages, decay {training.ema_decay:g}",
    }
    return [f"| {name} | {value} |" for name, value in rows.items() if value]


def _settings(loss: Loss) -> str:
    return ", ".join([loss.kind, *(f"{key} {value}" for key, value in loss if key != "kind")])
