"""Which part of a set a process takes, by hand or from what started it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.precompute.devices import default_decode_threads
from cache.precompute.launch import Part, local_processes, local_rank, read_part
from stal_data.errors import InputError

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
ARRAY = {
    "SLURM_ARRAY_TASK_ID": "12",
    "SLURM_ARRAY_TASK_MIN": "10",
    "SLURM_ARRAY_TASK_MAX": "13",
    "SLURM_ARRAY_TASK_COUNT": "4",
    "SLURM_ARRAY_TASK_STEP": "1",
}
SRUN = {"SLURM_PROCID": "1", "SLURM_NTASKS": "3", "SLURM_STEP_NUM_TASKS": "3"}
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
INDEXED_JOB = {"JOB_COMPLETION_INDEX": "0"}


@given(count=st.integers(1, 40), num_shards=st.integers(1, 300))
def test_the_parts_cover_every_shard_once_and_evenly(count: int, num_shards: int) -> None:
    parts = [Part(number=number, count=count, source="test").shards(num_shards) for number in range(1, count + 1)]
    assert [shard for part in parts for shard in part] == list(range(num_shards))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(
    ("text", "environment", "number", "count", "source"),
    [
        ("3/16", {}, 3, 16, "--shard 3/16"),
        ("3/16", TORCHRUN, 3, 16, "--shard 3/16"),
        (None, TORCHRUN, 6, 8, "torchrun rank 5"),
        ("auto", TORCHRUN, 6, 8, "torchrun rank 5"),
        ("auto", TORCHRUN | SRUN, 6, 8, "torchrun rank 5"),
        ("auto", ARRAY | BATCH_SCRIPT, 3, 4, "Slurm array task 12"),
        ("auto/4", ARRAY, 3, 4, "Slurm array task 12"),
        ("auto", ARRAY | {"SLURM_ARRAY_TASK_MAX": "16", "SLURM_ARRAY_TASK_STEP": "2"}, 2, 4, "Slurm array task 12"),
        ("auto", SRUN, 2, 3, "Slurm task 1"),
        ("auto", ARRAY | SRUN, 8, 12, "Slurm array task 12, Slurm task 1"),
        ("auto/16", INDEXED_JOB, 1, 16, "Kubernetes index 0"),
    ],
)
def test_the_part_and_where_it_comes_from(
    text: str | None, environment: dict[str, str], number: int, count: int, source: str
) -> None:
    assert read_part(text, environment) == Part(number=number, count=count, source=source)


@pytest.mark.parametrize("environment", [{}, ARRAY, SRUN, INDEXED_JOB])
def test_without_shard_and_torchrun_processes_share_by_claims(environment: dict[str, str]) -> None:
    assert read_part(None, environment) is None


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("0/16", {}, "Part 0/16 .* numbered 1 to 16"),
        ("17/16", {}, "Part 17/16"),
        ("1/0", {}, "Part 1/0"),
        ("3 of 16", {}, "--shard is '3 of 16'; it must be K/N"),
        ("auto", {}, "nothing numbers this process"),
        ("auto", BATCH_SCRIPT, "nothing numbers this process"),
        ("auto", INDEXED_JOB, "write --shard auto/N"),
        ("auto/2", INDEXED_JOB | {"JOB_COMPLETION_INDEX": "2"}, "Part 3/2"),
        ("auto/9", ARRAY, "--shard is auto/9, but this process is part 3 of 4"),
        # Tasks 10 and 13 alone were submitted again.
        ("auto", ARRAY | {"SLURM_ARRAY_TASK_COUNT": "2"}, "not evenly spaced"),
        ("auto", {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, "not started by srun"),
        ("auto", TORCHRUN | ARRAY, "part 6 of 8 .* and part 3 of 4"),
        ("auto", TORCHRUN | {"RANK": "-1"}, "RANK is '-1'"),
    ],
)
def test_what_is_unclear_is_refused(text: str, environment: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_part(text, environment)


def test_the_processes_of_a_machine_share_its_cores() -> None:
    assert (local_rank(TORCHRUN), local_processes(TORCHRUN)) == (1, 4)
    assert (local_rank({}), local_processes({})) == (None, 1)
    assert default_decode_threads(1000) == 1
    assert default_decode_threads() >= default_decode_threads(2)
