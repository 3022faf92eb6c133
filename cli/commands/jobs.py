"""`stal-cli jobs`: training and precompute jobs of a service or a store."""

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.table import Table

from cli.ui.job_display import JobDisplay
from cli.ui.json_output import json_option, message_fields, print_json
from cli.ui.options import client_options
from cli.ui.params import COUNT
from cli.ui.recognizer import Recognizer, recognizer_at
from cli.ui.sigterm import INTERRUPTED
from cli.ui.tables import add_row, print_table
from stal_data.errors import StalError
from svc_common.config import ClientConfig

if TYPE_CHECKING:
    from protos.generated import recognizer_pb2 as pb

T = TypeVar("T")
_STORE = click.option("--store", "store_url", help="Folder or s3:// URL of the store; used without --recognizer.")


class JobEndedError(StalError):
    """A job failed or was cancelled."""


@click.group()
def jobs() -> None:
    """List, watch and cancel training and precompute jobs. A training job carries the name of its run.

    \b
    Examples:
      stal-cli jobs list --store store
      stal-cli jobs watch first --recognizer 127.0.0.1:50052
      stal-cli jobs cancel first --recognizer 127.0.0.1:50052
    """


@jobs.command("list")
@_STORE
@click.option("--limit", type=COUNT, default=100, show_default=True, help="Show the newest so many.")
@json_option
@client_options("recognizer", required=False)
def list_command(client: ClientConfig | None, store_url: str | None, limit: int, as_json: bool) -> None:
    """List jobs, newest first."""
    found = _call(client, store_url, lambda recognizer: recognizer.list_jobs(limit=limit))
    if as_json:
        print_json([message_fields(job) | {"status": status_name(job), "kind": kind_name(job)} for job in found])
        return
    table = Table("job", "kind", "status", "attempt", "created", "run time", "processes", "host", "message")
    for job in found:
        launch = job.launch
        add_row(
            table,
            job.run_id,
            kind_name(job),
            status_name(job),
            str(job.attempt),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(job.created_s)),
            f"{(job.ended_s or time.time()) - job.started_s:.0f} s" if job.started_s else "-",
            f"{launch.nnodes} x {launch.nproc_per_node} {launch.backend}",
            job.host,
            job.message.partition("\n")[0],
        )
    print_table(table)


@jobs.command()
@click.argument("run_id", metavar="JOB")
@_STORE
@click.option("--from-seq", type=click.IntRange(0, 2**63 - 1), default=0, help="Leave out events before this number.")
@client_options("recognizer", required=False)
def watch(client: ClientConfig | None, store_url: str | None, run_id: str, from_seq: int) -> None:
    """Show a job's history and follow it to its end. Exit code 1 if it fails or is cancelled."""
    try:
        job = _call(client, store_url, lambda recognizer: _watch(recognizer, run_id, from_seq))
    except KeyboardInterrupt:
        click.echo("The job goes on.", err=True)
        sys.exit(INTERRUPTED)
    check_ended_well(job)
    click.echo(f"{job.run_id}: {status_name(job)}")


@jobs.command()
@click.argument("run_id", metavar="JOB")
@_STORE
@client_options("recognizer", required=False)
def cancel(client: ClientConfig | None, store_url: str | None, run_id: str) -> None:
    """Stop a job; it writes a checkpoint first, or the shards that it has begun. One that has ended stays as it is."""
    job = _call(client, store_url, lambda recognizer: recognizer.cancel_job(run_id))
    click.echo(f"{job.run_id}: {status_name(job)}")


def check_ended_well(job: "pb.Job") -> None:
    """Raise the job's own message when it failed or was cancelled."""
    from protos.generated import recognizer_pb2 as pb

    if job.status != pb.JOB_STATUS_SUCCEEDED:
        what = "Job" if job.kind == pb.JOB_KIND_PRECOMPUTE else "Run"
        raise JobEndedError(f"{what} {job.run_id} {status_name(job)}: {job.message}")


def status_name(job: "pb.Job") -> str:
    from protos.generated import recognizer_pb2 as pb

    return pb.JobStatus.Name(job.status).removeprefix("JOB_STATUS_").lower()


def kind_name(job: "pb.Job") -> str:
    from protos.generated import recognizer_pb2 as pb

    return "precompute" if job.kind == pb.JOB_KIND_PRECOMPUTE else "train"


def _call(
    client: ClientConfig | None, store_url: str | None, call: Callable[[Recognizer], Coroutine[Any, Any, T]]
) -> T:
    async def run() -> T:
        async with recognizer_at(client, store_url) as recognizer:
            return await call(recognizer)

    return asyncio.run(run())


async def _watch(recognizer: Recognizer, run_id: str, from_seq: int) -> "pb.Job":
    job = None
    with JobDisplay() as display:
        async for update in recognizer.watch_job(run_id, from_seq=from_seq):
            display.show(update)
            if update.WhichOneof("update") == "job":
                job = update.job
    assert job is not None  # the job comes first and last
    return job
