"""Checking every file of a run against its checksum. Needs no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cache.tensor_header import read_header
from recognizer_svc.runs import zip_checkpoint
from recognizer_svc.runs.run_dir import OLD_SUFFIX, SUFFIX, JobFiles, RunDir
from recognizer_svc.runs.summary import summarise
from recognizer_svc.training.recipe import load_recipe
from stal_data.errors import StalError
from stal_data.labels import LabelMap
from stal_data.sealed import check_seal, parse_json

_READERS: dict[str, Callable[[BinaryIO, Path], object]] = {
    ".yaml": lambda _, path: load_recipe(path),
    ".pbtxt": lambda _, path: LabelMap.read(path),
    ".json": lambda file, path: parse_json(file.read(), str(path), ""),
    SUFFIX: lambda file, path: read_header(file, str(path)),
}
"""For files without a checksum: at least they read."""


@dataclass(frozen=True, kw_only=True)
class VerifiedRun:
    """problems: what is damaged. unchecked: files that carry no checksum, as earlier versions wrote them."""

    problems: tuple[str, ...]
    unchecked: tuple[str, ...]


def verify_run(run: RunDir) -> VerifiedRun:
    """Read every file of the run."""
    files = [run.recipe, run.label_map, run.provenance, run.state, run.tags, *JobFiles(run).records()]
    problems, unchecked = [], []
    for path in [*files, *run.checkpoint_files(), *run.all_backbone_files()]:
        try:
            with path.open("rb") as file:
                if path.suffix == OLD_SUFFIX:
                    zip_checkpoint.check(file, path)
                elif not check_seal(file, str(path), ""):
                    _READERS[path.suffix](file, path)
                    unchecked.append(path.name)
        except FileNotFoundError:
            continue
        except (StalError, OSError) as error:
            problems.append(str(error))
    problems += summarise(run).problems  # the events, and what does not fit together
    return VerifiedRun(problems=tuple(dict.fromkeys(problems)), unchecked=tuple(unchecked))
