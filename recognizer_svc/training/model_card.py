"""What a model card says of a head, in Markdown."""

from recognizer_svc.training.checkpoint import Checkpoint


def model_card(run_id: str, name: str, checkpoint: Checkpoint, digest: str) -> str:
    """Return the card of a run's checkpoint. digest: sha256 of the head's tensors."""
    recipe, progress, spec = checkpoint.recipe, checkpoint.progress, checkpoint.feature_spec
    scored = "none" if progress.validation_map is None else f"{progress.validation_map:.4f} ({recipe.validated_on})"
    backbones = [f"| {item.kind} | {item.preset} | `{item.weights}` |" for item in spec.backbones]
    classes = [f"- {label.id}: {label.name} ({label.type})" for label in checkpoint.label_map.labels]
    lines = [
        f"# {run_id}",
        "",
        f"A head `{recipe.head.kind}` of STAL: it turns the cached features of a key frame and the boxes of its people",
        f"into {checkpoint.label_map.num_classes} action scores in [0,1] for each person.",
        "",
        "| | |",
        "|---|---|",
        f"| recipe | `{recipe.name}` (recipe.yaml) |",
        f"| checkpoint | {name}, after {progress.epochs_done} epochs |",
        f"| trained on | {recipe.data.dataset}/{recipe.data.train_split}, seed {recipe.training.seed} |",
        f"| validation mAP | {scored} |",
        f"| sha256 of the tensors | `{digest}` |",
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
        "## Use",
        "",
        "In a store with features of these backbones; DATASET has the classes below:",
        "",
        "    stal-cli runs import head.safetensors --recipe recipe.yaml --store STORE --run-id RUN \\",
        "      --dataset DATASET --split SPLIT",
        "    stal-cli predict --run RUN --store STORE --dataset DATASET --split SPLIT --boxes proposals \\",
        "      --output predictions.csv",
        "",
        "## Classes",
        "",
        *classes,
        "",
    ]
    return "\n".join(lines)
