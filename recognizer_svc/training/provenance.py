"""What a run was made from: enough to make it again, or to see why two runs differ."""

import platform
import subprocess
import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.inputs import RunInputs
from recognizer_svc.training.recipe import Recipe
from stal_data.errors import ConflictError
from stal_data.files import write_atomically
from stal_data.sealed import read_json, sealed_json


def write_provenance(
    run_dir: RunDir, recipe: Recipe, inputs: RunInputs, ranks: Ranks, *, init_head: str | None = None
) -> None:
    """Write provenance.json; a resumed run adds this start to the earlier ones.

    init_head: digest of the tensors that the head started from; None for a new head and for a resumed run.
    """
    start = {
        "time": time.time(),
        "code": code_version(),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "world_size": ranks.world_size,
        "cudnn": torch.backends.cudnn.version() if ranks.device.type == "cuda" else None,  # type: ignore[no-untyped-call]
        "tf32": torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32,
        "device": _device_name(ranks.device),
        "init_head": init_head,
    }
    content = {
        "run_id": run_dir.run_id,
        "recipe": recipe.model_dump(mode="json"),
        "seed": recipe.training.seed,
        "splits": {
            use: {"dataset": split.dataset, "split": split.split, "digest": split.digest}
            for use, split in inputs.splits.items()
        },
        "label_map": inputs.label_map.digest,
        "feature_sets": {
            use: {"id": features.id, "spec": features.spec.to_dict()} for use, features in inputs.feature_sets.items()
        },
        # The detected boxes that are trained on.
        "proposals": None
        if inputs.proposals is None
        else {
            "name": inputs.proposals.detector.name,
            "weights": inputs.proposals.detector.weights,
            "digest": inputs.proposals.digest,
        },
        # What a backbone that is trained with the head started from.
        "backbone": None if inputs.joint is None else asdict(inputs.joint.backbone.spec),
        "starts": [*_earlier(run_dir.provenance).get("starts", []), start],
    }
    write_atomically(run_dir.provenance, sealed_json(content))


def check_same_proposals(run_dir: RunDir, inputs: RunInputs) -> None:
    """Refuse to go on with other detected boxes than those of the run's starts, where its folder tells of them."""
    before, now = _earlier(run_dir.provenance).get("proposals"), inputs.proposals
    if before and now is not None and before["digest"] != now.digest:
        raise ConflictError(
            f"The run was trained on other boxes of {now.dataset}/{now.split} (digest {before['digest'][:16]} of "
            f"'{before['name']}') than are in the store now ({now.digest[:16]} of '{now.detector.name}'). Start a new "
            "run, or name the old boxes with data.proposals."
        )


def code_version() -> dict[str, Any]:
    """Version of the package, and the git commit where it runs from a clone; `modified` = with uncommitted changes."""
    try:
        package = version("stal")
    except PackageNotFoundError:
        package = None
    clone = Path(__file__).parent.parent.parent
    if not (clone / ".git").exists():
        return {"version": package, "commit": None, "modified": None}
    commit, status = _git(clone, "rev-parse", "HEAD"), _git(clone, "status", "--porcelain", "--untracked-files=no")
    return {"version": package, "commit": commit, "modified": None if status is None else bool(status)}


def _git(clone: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(clone), *words],  # noqa: S607 - whichever git the user has
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"cpu: {platform.processor() or platform.machine()}"


def _earlier(path: Path) -> dict[str, Any]:
    way_out = "Restore it from a copy; or move it away, and the run goes on without the account of its earlier starts."
    return read_json(path, way_out)
