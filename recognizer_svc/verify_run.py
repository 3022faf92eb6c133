"""Checking every file of a run against its checksum. Needs no torch."""

from dataclasses import dataclass

from recognizer_svc import zip_checkpoint
from recognizer_svc.run_dir import CHECKPOINTS, OLD_SUFFIX, SUFFIX, RunDir
from recognizer_svc.runs import summarise
from recognizer_svc.service.record import JobFiles
from stal_data.errors import InputError
from stal_data.sealed import check_seal


@dataclass(frozen=True, kw_only=True)
class VerifiedRun:
    """problems: what is damaged. unchecked: files that carry no checksum, as earlier versions wrote them."""

    problems: tuple[str, ...]
    unchecked: tuple[str, ...]


def verify_run(run: RunDir) -> VerifiedRun:
    """Read every file of the run."""
    checkpoints = [run.checkpoint(name).with_suffix(suffix) for name in CHECKPOINTS for suffix in (SUFFIX, OLD_SUFFIX)]
    files = [run.recipe, run.label_map, run.provenance, run.state, *JobFiles(run).records(), *checkpoints]
    problems, unchecked = [], []
    for path in [*files, run.slowfast, run.slowfast_latest]:
        try:
            with path.open("rb") as file:
                if path.suffix == OLD_SUFFIX:
                    zip_checkpoint.check(file, path)
                elif not check_seal(file, str(path), ""):
                    unchecked.append(path.name)
        except FileNotFoundError:
            continue
        except (InputError, OSError) as error:
            problems.append(str(error))
    return VerifiedRun(problems=tuple(problems) or summarise(run.root).problems, unchecked=tuple(unchecked))
