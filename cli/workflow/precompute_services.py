"""Precompute by recognizer services: each gets the request, and they share the set by the shards that they claim."""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from stal_data.errors import StalError
from svc_common.config import ClientConfig

if TYPE_CHECKING:
    from cache.precompute import Progress


async def precompute_at(
    clients: Sequence[ClientConfig],
    request: pb.PrecomputeRequest,
    *,
    progress: "Progress",
    note: Callable[[str], None],
) -> Sequence[pb.FilledSet]:
    """Start a job at each service, show their progress as one, and return what they have filled.

    A job succeeds when the whole set is filled, whoever did it; so the first success is enough, and the other jobs end
    by themselves. request: each job has its name, with the service's number where there are several.
    """
    shown = _Shared(progress)
    tasks = []
    for number, client in enumerate(clients, 1):
        own = type(request)()
        own.CopyFrom(request)
        own.request_id = secrets.token_hex(16)
        own.job_id += f"-{number}" if len(clients) > 1 else ""
        tasks.append(asyncio.create_task(_follow(client, own, shown, note)))
    failed: list[tuple[ClientConfig, StalError]] = []
    waiting = dict(zip(tasks, clients, strict=True))
    try:
        while waiting:
            ended, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                client = waiting.pop(task)
                try:
                    return task.result()
                except StalError as error:
                    failed.append((client, error))
                    if waiting:
                        note(f"{client.address}: {error}\nThe other services go on.")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    raise failed[0][1]


async def _follow(
    config: ClientConfig, request: pb.PrecomputeRequest, shown: "_Shared", note: Callable[[str], None]
) -> Sequence[pb.FilledSet]:
    from cli.commands.jobs import check_ended_well

    job, sets, told = pb.Job(), list[pb.FilledSet](), False
    where = f"--recognizer {config.address}"
    async with RecognizerClient(config) as client:
        async for update in client.precompute(request):
            kind = update.event.WhichOneof("event") if update.WhichOneof("update") == "event" else "job"
            if kind == "job":
                job = update.job
                if not told:
                    note(f"job {job.run_id} on {job.host}; watch it with: stal-cli jobs watch {job.run_id} {where}")
                    told = True
            elif kind == "precompute":
                shown.add(request.job_id, update.event.precompute)
            elif kind == "log":
                note(f"{job.host}: {update.event.log.message}")
            elif kind == "done":
                sets = list(update.event.done.sets)
    check_ended_well(job)
    return sets


class _Shared:
    def __init__(self, progress: "Progress") -> None:
        self._progress = progress
        self._latest: dict[str, pb.PrecomputeEvent] = {}
        self._begun: dict[str, int] = {}
        """Rows that were done when a job began."""

    def add(self, job_id: str, event: pb.PrecomputeEvent) -> None:
        if event.phase == "check":
            if not self._latest:  # they check the same frames
                self._progress("check", event.rows_done, event.rows_total)
            return
        self._latest[job_id] = event
        self._begun.setdefault(job_id, event.rows_skipped)
        computed = sum(event.rows_done - event.rows_skipped for event in self._latest.values())
        # One that looked at the set may know of more: what a job has computed since its latest event.
        done = max(min(self._begun.values()) + computed, *(event.rows_done for event in self._latest.values()))
        self._progress("extract", min(done, event.rows_total), event.rows_total)
