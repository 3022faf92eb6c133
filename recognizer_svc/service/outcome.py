"""What became of an attempt whose processes have ended."""

import json
from pathlib import Path

from recognizer_svc.runs.events import read_events
from recognizer_svc.runs.record import JobKind, JobRecord, JobStatus
from recognizer_svc.runs.run_dir import JobFiles
from stal_data.log_tail import log_tail

_MESSAGE_LIMIT = 4000  # characters
_ENDS = ("done", "error")


def decide(
    files: JobFiles, record: JobRecord, *, exit_code: int | None, cancelled: bool, stopped: str = ""
) -> tuple[JobStatus, str]:
    """Status and message of an attempt.

    exit_code: the launcher's; None where another process was its parent.
    cancelled: somebody asked for its end.
    stopped: why the service ended it; empty when it did not.
    """
    ends = [event for event in read_events(files.run.events, offset=record.events_offset) if event.type in _ENDS]
    # A job of several nodes ends here when this node's processes are through; rank 0 may be elsewhere.
    if any(event.type == "done" for event in ends) or (exit_code == 0 and record.launch.nnodes > 1):
        return JobStatus.SUCCEEDED, ""
    precomputes = record.kind is JobKind.PRECOMPUTE
    if cancelled and precomputes:
        return JobStatus.CANCELLED, "Cancelled on request; the same request goes on from the rows that are done."
    if cancelled:
        if files.run.checkpoint("latest").exists():
            return JobStatus.CANCELLED, "Cancelled on request; --resume continues it from its last checkpoint."
        return (
            JobStatus.CANCELLED,
            "Cancelled on request before its first checkpoint; --resume starts it from the beginning.",
        )
    if stopped:
        return JobStatus.FAILED, stopped
    message = next((str(event.values["message"]) for event in ends if event.type == "error"), "")
    message = message or _elastic_message(files.error)
    if not message:
        code = "ended" if exit_code is None else f"exited with code {exit_code}"
        who, what = ("process", "precompute") if precomputes else ("launcher", "training")
        message = f"The {who} {code} before {what} was done. The end of {files.log}:\n{log_tail(files.log)}"
    return JobStatus.FAILED, message[-_MESSAGE_LIMIT:]


def _elastic_message(path: Path) -> str:
    """The first failed worker's exception, as torch elastic copied it into the job's error file."""
    try:
        message = json.loads(path.read_text(encoding="utf-8"))["message"]
        return str(message["message"] if isinstance(message, dict) else message)
    except (OSError, ValueError, KeyError):
        return ""
