"""Which part of a set this process fills, as told by the user or by what started the process.

Torchrun, Slurm and Kubernetes number the processes they start in environment variables.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from stal_data.errors import InputError

Environment = Mapping[str, str]

_PART = re.compile(r"(\d{1,9})/(\d{1,9})")
_AUTO = re.compile(r"auto(?:/(\d+))?")
_BY_HAND = "name the part by hand, such as --shard 3/16"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One of `count` parts of a feature set; `number` counts from 1. source: where that was read."""

    number: int
    count: int
    source: str

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise InputError(
                f"Part {self.number}/{self.count} ({self.source}) does not exist; parts are numbered 1 to {self.count}."
            )

    def shards(self, num_shards: int) -> range:
        """Return this part of so many shards: neighbours, since their clips share frames. May be empty."""
        return range((self.number - 1) * num_shards // self.count, self.number * num_shards // self.count)

    def divided(self, count: int) -> "list[Part]":
        """Return the equal parts of this part."""
        first = (self.number - 1) * count + 1
        return [
            Part(number=first + index, count=self.count * count, source=f"{self.source}, {index + 1} of {count}")
            for index in range(count)
        ]

    def __str__(self) -> str:
        return f"part {self.number} of {self.count} ({self.source})"


def read_part(text: str | None, environment: Environment) -> Part | None:
    """Return the part that `--shard` names; None is the whole set, shared with other processes by claims.

    text: `K/N` with K from 1, `auto` or `auto/N` (from the environment), or None: `auto` under torchrun, whose ranks
    end together, else no part.
    """
    if text is None:
        return _torchrun(environment)
    if found := _PART.fullmatch(text):
        return Part(number=int(found[1]), count=int(found[2]), source=f"--shard {text}")
    if found := _AUTO.fullmatch(text):
        return _from_environment(environment, None if found[1] is None else int(found[1]))
    raise InputError(f"--shard is '{text}'; it must be K/N with K from 1 to N, such as 3/16, or auto, or auto/N.")


def local_rank(environment: Environment) -> int | None:
    """Return this process's number among torchrun's on this machine, from 0; None when torchrun did not start it."""
    return _number(environment, "LOCAL_RANK")


def local_processes(environment: Environment) -> int:
    """Return how many processes torchrun started on this machine, which share its cores."""
    return _number(environment, "LOCAL_WORLD_SIZE") or 1


def _from_environment(environment: Environment, count: int | None) -> Part:
    parts = {
        name: part
        for name, read in (("torchrun", _torchrun), ("Slurm", _slurm), ("Kubernetes", lambda e: _kubernetes(e, count)))
        if (part := read(environment)) is not None
    }
    # Torchrun's ranks count all of its processes, also those that srun started it with.
    if "torchrun" in parts and "SLURM_ARRAY_TASK_ID" not in environment:
        parts.pop("Slurm", None)
    if not parts:
        raise InputError(
            "--shard is auto, but nothing numbers this process: RANK and WORLD_SIZE (torchrun), SLURM_ARRAY_TASK_ID or "
            f"SLURM_PROCID (Slurm) and JOB_COMPLETION_INDEX (Kubernetes) are not set; {_BY_HAND}."
        )
    if len(parts) > 1:
        raise InputError(f"--shard is auto, but this process is {' and '.join(map(str, parts.values()))}; {_BY_HAND}.")
    (part,) = parts.values()
    if count not in (None, part.count):
        raise InputError(f"--shard is auto/{count}, but this process is {part}; write --shard auto.")
    return part


def _torchrun(environment: Environment) -> Part | None:
    rank, world = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
    if rank is None or world is None:
        return None
    return Part(number=rank + 1, count=world, source=f"torchrun rank {rank}")


def _slurm(environment: Environment) -> Part | None:
    """Tasks of an array, tasks of one srun, or tasks of an srun within each task of an array."""
    array, tasks = _slurm_array(environment), _slurm_tasks(environment)
    if array is None or tasks is None:
        return array or tasks
    return Part(
        number=(array.number - 1) * tasks.count + tasks.number,
        count=array.count * tasks.count,
        source=f"{array.source}, {tasks.source}",
    )


def _slurm_array(environment: Environment) -> Part | None:
    task = _number(environment, "SLURM_ARRAY_TASK_ID")
    if task is None:
        return None
    first, last, count, step = (
        _number(environment, f"SLURM_ARRAY_TASK_{name}") for name in ("MIN", "MAX", "COUNT", "STEP")
    )
    step = step or 1
    if first is None or count is None or (last is not None and first + (count - 1) * step != last):
        raise InputError(
            f"--shard is auto, but the indices of the Slurm array are not evenly spaced (task {task} of {count}, "
            f"{first} to {last}, step {step}), as when only failed tasks were submitted again; {_BY_HAND}."
        )
    return Part(number=(task - first) // step + 1, count=count, source=f"Slurm array task {task}")


def _slurm_tasks(environment: Environment) -> Part | None:
    """A step's tasks. A batch script itself has SLURM_PROCID 0 and the job's SLURM_NTASKS, but is no step."""
    task, count = _number(environment, "SLURM_PROCID"), _number(environment, "SLURM_NTASKS")
    if task is None or count in (None, 1):
        return None
    of_step = _number(environment, "SLURM_STEP_NUM_TASKS")
    if of_step is None:
        raise InputError(
            f"--shard is auto and Slurm allotted {count} tasks, but this one was not started by srun: "
            f"'srun stal-cli precompute ... --shard auto' starts one process a task, or {_BY_HAND}."
        )
    return Part(number=task + 1, count=of_step, source=f"Slurm task {task}")


def _kubernetes(environment: Environment, count: int | None) -> Part | None:
    index = _number(environment, "JOB_COMPLETION_INDEX")
    if index is None:
        return None
    if count is None:
        raise InputError(
            f"--shard is auto and JOB_COMPLETION_INDEX is {index}, but Kubernetes does not tell the number of "
            "completions; write --shard auto/N with N from the Job's spec.completions."
        )
    return Part(number=index + 1, count=count, source=f"Kubernetes index {index}")


def _number(environment: Environment, name: str) -> int | None:
    text = environment.get(name)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit():
        raise InputError(f"The environment variable {name} is '{text}'; it must be a whole number from 0.")
    return int(text)
