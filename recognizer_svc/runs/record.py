"""What a training job leaves on disk, so that any service that sees the store can tell what became of it."""

import json
import logging
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from cache.files import explaining_full_disk
from recognizer_svc.runs.run_dir import JobFiles, RunDir
from stal_data.amounts import amount
from stal_data.errors import ConflictError, InputError, StalError
from stal_data.files import write_atomically
from stal_data.sealed import parse_json, read_json, sealed_json
from svc_common.config import is_address

_LOG = logging.getLogger(__name__)
IMPORTED = "imported"
"""Status of a run that was made of a head file: it scores, and there is nothing to resume."""


class JobStatus(StrEnum):
    """Where a job stands; the last three are final for an attempt."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


class JobKind(StrEnum):
    """What a job does."""

    TRAIN = "train"
    PRECOMPUTE = "precompute"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How the processes of one node are started."""

    nproc_per_node: int
    backend: str
    """"gloo" or "nccl"."""
    nnodes: int = 1
    node_rank: int = 0
    rdzv_endpoint: str = ""
    """HOST:PORT on node 0; empty with one node."""
    max_restarts: int = 0
    """How often torch elastic starts all processes again after one of them fails."""

    @property
    def one_process(self) -> bool:
        """Whether it takes no launcher."""
        return self.nproc_per_node == self.nnodes == 1 and not self.max_restarts

    def __post_init__(self) -> None:
        for field, low, high in (("nproc_per_node", 1, 64), ("nnodes", 1, 1024), ("max_restarts", 0, 100)):
            value = getattr(self, field)
            if not low <= value <= high:
                raise InputError(f"{field} is {value}, but must be {low} to {high}.")
        if not 0 <= self.node_rank < self.nnodes:
            raise InputError(f"node_rank is {self.node_rank}, but must be 0 to {self.nnodes - 1} (nnodes - 1).")
        if self.backend not in ("gloo", "nccl"):
            raise InputError(f"backend is '{self.backend}', but must be gloo (CPU or GPU) or nccl (GPU).")
        if (self.nnodes > 1) != bool(self.rdzv_endpoint):
            raise InputError(
                f"rdzv_endpoint is '{self.rdzv_endpoint}' with {amount(self.nnodes, 'node')}: several nodes need "
                "HOST:PORT of node 0, one node takes none."
            )
        if self.rdzv_endpoint and not is_address(self.rdzv_endpoint):
            raise InputError(
                f"rdzv_endpoint is {self.rdzv_endpoint[:200]!r}, but must be HOST:PORT of node 0, e.g. 10.0.0.1:29400."
            )


@dataclass(frozen=True, kw_only=True)
class JobRecord:
    """One node's share of a run's latest attempt. Times are seconds since 1970, 0 where it has not happened."""

    run_id: str
    attempt: int
    """1 for the first start, one more each time the run is resumed."""
    status: JobStatus
    launch: Launch
    host: str
    """Machine on which the processes run; pids mean something only there."""
    created_s: float
    kind: JobKind = JobKind.TRAIN
    events_offset: int
    """Bytes of events.jsonl that earlier attempts wrote."""
    request_id: str = ""
    """The client's number for the request that made this attempt."""
    message: str = ""
    started_s: float = 0.0
    ended_s: float = 0.0
    pid: int = 0
    """The launcher, leader of its own process group and session; 0 before it is known."""
    pgid: int = 0
    process_started_s: float = 0.0
    """The launcher's start as the system reports it: a pid alone may have been given to another process since."""


def write_record(files: JobFiles, record: JobRecord) -> None:
    """Replace the record; node 0's also replaces the run's public state."""
    with explaining_full_disk(files.record):
        write_atomically(files.record, sealed_json(asdict(record), indent=1))
        if files.node_rank == 0:
            state = {"status": record.status.value, "message": record.message, "attempt": record.attempt}
            write_atomically(files.run.state, sealed_json(state, indent=1))


def read_record(path: Path) -> JobRecord | None:
    """The record at `path`; None where there is none, ConflictError where it does not read.

    A record is replaced in one step, so it is never half written. Services of other versions may share the store:
    fields that only they know are left out.
    """
    try:
        raw = parse_json(path.read_bytes(), str(path), "")
        launch = Launch(**_known(Launch, raw["launch"]))
        return JobRecord(
            **_known(JobRecord, raw)
            | {
                "status": JobStatus(raw["status"]),
                "kind": JobKind(raw.get("kind", JobKind.TRAIN)),  # earlier versions knew one
                "launch": launch,
            }
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StalError) as error:
        raise ConflictError(
            f"The job record '{path}' does not read ({error!r:.500}): it is damaged, or a newer version of the service "
            "wrote it. Use that version for this run; or, when none of its processes are left on any machine, move the "
            "folder 'job' away and continue the run with --resume."
        ) from None


def readable_records(files: JobFiles) -> list[JobRecord]:
    """The records of all nodes, node 0 first; one that does not read is logged and left out."""
    found = []
    for path in files.records():
        try:
            record = read_record(path)
        except StalError as error:
            _LOG.warning("%s", error)
            continue
        if record is not None:
            found.append(record)
    return found


def refuse_imported(run: RunDir) -> None:
    """Raise where a run that was imported is to be trained on."""
    state = read_json(run.state, "Restore it from a copy, or delete it: what the run did is in its events.")
    if state.get("status") == IMPORTED:
        raise ConflictError(
            f"Run '{run.run_id}' was imported and holds no optimizer state to go on with. Start a new run from its "
            "head file with training.init_head."
        )


def _known(kind: type[JobRecord] | type[Launch], values: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in values.items() if name in names}


def request_cancel(files: JobFiles) -> None:
    """Ask the services of all nodes to stop their present attempts."""
    records = readable_records(files)
    # Records of other machines are not seen where the store is in a bucket; their attempts have the same number.
    attempts = {str(rank): record.attempt for record in records for rank in range(record.launch.nnodes)}
    attempts |= {str(record.launch.node_rank): record.attempt for record in records}
    with explaining_full_disk(files.cancel):
        write_atomically(files.cancel, json.dumps(attempts))


def cancel_requested(files: JobFiles, record: JobRecord) -> bool:
    """True when this attempt is to be cancelled; a request from before the run was resumed does not count."""
    try:
        attempts = json.loads(files.cancel.read_text(encoding="utf-8"))
        return bool(attempts.get(str(files.node_rank)) == record.attempt)
    except FileNotFoundError:
        return False
    except (ValueError, AttributeError) as error:
        _LOG.warning("'%s' does not read and cancels nothing: %r", files.cancel, error)
        return False
