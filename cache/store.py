"""Where things lie under a store URL; the only thing that the machines of a set-up share.

STORE/annotations/<dataset>/<split>/           published split, see cache/split_store.py
      features/<dataset>/<split>/<spec id>/    one Zarr group per feature set
      proposals/<dataset>/<split>/<name>.h5    one file per detector
      runs/<run id>/                           recipe, checkpoints and events of a training
      weights/                                 backbones and heads that a training may start from
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from stal_data.errors import InputError, NotFoundError, did_you_mean
from stal_data.names import check_name

# One slash is enough: a `Path` of a URL has lost the other.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


@dataclass(frozen=True, slots=True)
class Store:
    """A store in a local or mounted folder. `root` is absolute, so a child process may have another working folder."""

    root: Path

    @classmethod
    def open(cls, url: str | Path, *, create: bool = False) -> Self:
        """Open the store at `url`; with `create` a missing folder is made, else it is an error."""
        text = str(url)
        if _URL.match(text) and not text.startswith("file://"):
            raise InputError(
                f"The store '{text}' is not a local folder, and only local folders are supported; "
                "mount the bucket, or copy the store to a folder."
            )
        root = Path(text.removeprefix("file://")).absolute()
        if root.exists() and not root.is_dir():
            raise InputError(f"The store '{text}' is a file; it must be a folder.")
        if create:
            root.mkdir(parents=True, exist_ok=True)
        elif not root.exists():
            raise NotFoundError(f"There is no store at '{text}'; 'stal-cli precompute ... --store {text}' makes one.")
        return cls(root)

    def annotations_dir(self, dataset: str, split: str) -> Path:
        return self._split_dir("annotations", dataset, split)

    def features_dir(self, dataset: str, split: str) -> Path:
        return self._split_dir("features", dataset, split)

    def proposals_dir(self, dataset: str, split: str) -> Path:
        return self._split_dir("proposals", dataset, split)

    @property
    def runs_dir(self) -> Path:
        return self.root / "runs"

    @property
    def weights_dir(self) -> Path:
        return self.root / "weights"

    def weights_file(self, field: str, name: str) -> Path:
        """Return an existing file below the weights folder; `field` is what the message calls it.

        Links are followed first, so that none leads out of the folder.
        """
        root = self.weights_dir.resolve()
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise InputError(f"{field} '{name}' is outside '{root}'; give a path relative to that folder.")
        if not path.is_file():
            known = [str(found.relative_to(root)) for found in root.rglob("*.safetensors")]
            raise NotFoundError(
                f"{field} '{name}' does not exist in '{root}'; put the .safetensors file there. "
                f"{did_you_mean(name, known)}"
            )
        return path

    def find(
        self, kind: Literal["features", "proposals"], dataset: str | None, split: str | None, name: str
    ) -> list[Path]:
        """Return the existing paths whose last part fits the pattern `name`, sorted; None is any data set or split."""
        for field, value in (("dataset", dataset), ("split", split)):
            if value is not None:
                check_name(field, value)
        return sorted(self.root.glob(f"{kind}/{dataset or '*'}/{split or '*'}/{name}"))

    def _split_dir(self, kind: str, dataset: str, split: str) -> Path:
        check_name("dataset", dataset)
        check_name("split", split)
        return self.root / kind / dataset / split
