"""What lies where in a run's folder in the store.

STORE/runs/<run id>/    what decides a score carries a checksum, as do the .json files and each line of events.jsonl
  recipe.yaml           resolved recipe, written before the workers start
  label_map.pbtxt       the classes of the scores, in order
  provenance.json       what the run was made from, and every start of it
  events.jsonl          one JSON object per line, appended by rank 0
  checkpoints/          latest.safetensors, and best.safetensors where the recipe keeps the best
  tensorboard/          scalars
  BACKBONE.safetensors  a backbone that was trained with the head, of the best checkpoint, else of the latest
  BACKBONE-latest.safetensors   of the latest, where the best is another
  state.json            {"status": queued | running | succeeded | failed | cancelled | imported}, by who made the run
  tags.json             {"tags": [...]}, names that users gave the run
  job/                  records, locks and logs of the job, one each for each node

STORE/jobs/<job id>/    of a precompute job: request.json, and events.jsonl, state.json and job/ as above
"""

import secrets
import time
from pathlib import Path

from cache.backbones import BACKBONES

CHECKPOINTS = ("best", "latest")
SUFFIX = ".safetensors"
OLD_SUFFIX = ".pt"
"""Of checkpoints, as this version and earlier ones save them."""
METADATA_KEY = "stal_checkpoint"
"""Of what a checkpoint's header says, JSON text."""


def new_run_id(recipe_name: str) -> str:
    """Return a name for a run: recipe, time and a random end."""
    return f"{recipe_name}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


class RunDir:
    """Paths of one run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run_id = root.name
        self.store_root = root.absolute().parent.parent
        """The store that the run lies in: the features are read from there."""
        self.recipe = root / "recipe.yaml"
        self.request = root / "request.json"
        self.label_map = root / "label_map.pbtxt"
        self.provenance = root / "provenance.json"
        self.events = root / "events.jsonl"
        self.state = root / "state.json"
        self.tags = root / "tags.json"
        self.tensorboard = root / "tensorboard"

    def checkpoint(self, name: str) -> Path:
        """Path of `latest` or `best`; of an earlier version's file where there is only that."""
        path = self.root / "checkpoints" / f"{name}{SUFFIX}"
        old = path.with_suffix(OLD_SUFFIX)
        return old if old.exists() and not path.exists() else path

    def checkpoint_files(self) -> list[Path]:
        """Paths of all checkpoints, those of earlier versions last."""
        files = [self.root / "checkpoints" / f"{name}{SUFFIX}" for name in CHECKPOINTS]
        return files + [path.with_suffix(OLD_SUFFIX) for path in files]

    def backbone_files(self, kind: str) -> tuple[Path, Path]:
        """Paths of a backbone that was trained with the head: of the best checkpoint, and of the latest."""
        return self.root / f"{kind}.safetensors", self.root / f"{kind}-latest.safetensors"

    def all_backbone_files(self) -> list[Path]:
        return [path for kind in BACKBONES for path in self.backbone_files(kind)]

    def present_checkpoints(self) -> list[str]:
        """Names of the checkpoints that there are, the one that scores unasked first."""
        return [name for name in CHECKPOINTS if self.checkpoint(name).is_file()]


class JobFiles:
    """Paths of one node's share of a run's job."""

    def __init__(self, run: RunDir, node_rank: int = 0) -> None:
        self.run = run
        self.node_rank = node_rank
        self.folder = folder = run.root / "job"
        self.cancel = folder / "cancel.json"
        """Names the attempts that are to be cancelled: whoever sees the store may ask, each node's service obeys."""
        self.record = folder / f"node_{node_rank}.json"
        self.lock = folder / f"node_{node_rank}.lock"
        """Held by the service that owns this node's share, as long as the attempt has not ended."""
        self.log = folder / f"node_{node_rank}.log"
        """Output of the launcher and its workers."""
        self.error = folder / f"error_{node_rank}.json"
        """Torch elastic's account of the first worker that failed."""
        self.elastic_logs = folder / f"elastic_{node_rank}"

    def records(self) -> list[Path]:
        """The records of all nodes, node 0 first."""
        return sorted(self.folder.glob("node_*.json"), key=lambda path: (len(path.name), path.name))
