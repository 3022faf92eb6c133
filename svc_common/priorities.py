"""How a client states the priority of a call: the header `stal-priority`."""

from stal_data.errors import InputError, did_you_mean
from svc_common.calls_per_client import Context
from svc_common.fair_queue import PRIORITIES, Priority

PRIORITY_HEADER = "stal-priority"


def priority_of(context: Context) -> Priority:
    """What the client states; `batch` when it states nothing."""
    stated = dict(context.invocation_metadata() or ()).get(PRIORITY_HEADER, "batch")
    for priority in PRIORITIES:
        if stated == priority:
            return priority
    text = str(stated)[:40]
    raise InputError(
        f"The header {PRIORITY_HEADER} is '{text}', but must be {' or '.join(PRIORITIES)}. "
        f"{did_you_mean(text, PRIORITIES)}"
    )
