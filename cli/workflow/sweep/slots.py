"""Where a sweep's runs are trained, one at a time in each slot: a process of this machine, or a place at a service."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from cache.store import Store
from cli.workflow.sweep.frames import framed, read_frame
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from stal_data.children import python_command, python_environment, usable_cores
from stal_data.errors import NotFoundError, StalError
from stal_data.owner import owned

_BLOCK_BYTES = 1 << 16
_ACTIVE = (pb.JOB_STATUS_QUEUED, pb.JOB_STATUS_RUNNING)


class ProcessSlot:
    """A process that stays between runs; one that dies is replaced for the next run."""

    def __init__(self, store: Store, log: Path, *, threads: int) -> None:
        """log: gets what the process prints. threads: of torch's operators."""
        self._store, self._log, self._threads = store, log, threads
        self._process: asyncio.subprocess.Process | None = None

    async def train(self, request: pb.TrainRequest) -> AsyncGenerator[pb.JobUpdate]:
        """Yield the updates of a run until it ends, as a `RecognizerClient` does."""
        process = await self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(framed(request))
        ended = False
        while not ended:
            update = await read_frame(process.stdout, pb.JobUpdate)
            if update is None:
                code = await process.wait()
                raise StalError(f"The process that trained the run ended with exit code {code}; its log: {self._log}")
            yield update
            ended = update.WhichOneof("update") == "job" and update.job.status not in _ACTIVE

    async def close(self) -> None:
        """End the process; a run that it trains gets a checkpoint first."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            assert self._process.stdout is not None
            while await self._process.stdout.read(_BLOCK_BYTES):  # else it might wait for its pipe
                pass
            await self._process.wait()

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            with self._log.open("ab") as log:
                self._process = await asyncio.create_subprocess_exec(
                    *python_command("cli.workflow.sweep.worker", str(self._store.root)),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                    env=owned(python_environment() | {"OMP_NUM_THREADS": str(self._threads)}),
                    start_new_session=True,  # Ctrl-C is for this process alone, which ends the others
                )
        return self._process


class ServiceSlot:
    """A job at a time of a recognizer service; when this process ends, the job goes on."""

    def __init__(self, client: RecognizerClient) -> None:
        self._client = client

    async def train(self, request: pb.TrainRequest) -> AsyncGenerator[pb.JobUpdate]:
        """Yield the updates of a run until it ends; a job that an interrupted sweep has left there is watched."""
        active = request.resume and await self._is_active(request.run_id)
        updates = self._client.watch_job(request.run_id) if active else self._client.train(request)
        async with aclosing(updates):
            async for update in updates:
                yield update

    async def close(self) -> None:
        """Let the job go on."""

    async def _is_active(self, run_id: str) -> bool:
        try:
            return (await self._client.get_job(run_id)).status in _ACTIVE
        except NotFoundError:
            return False


Slot = ProcessSlot | ServiceSlot


def threads_of_each(jobs: int) -> int:
    """Threads of each of so many processes, so that together they use the cores that this process may use."""
    return max(usable_cores() // jobs, 1)
