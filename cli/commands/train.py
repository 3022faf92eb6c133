"""`stal-cli train`: a head, trained in this process or by a recognizer service."""

import asyncio
import json
import secrets
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.ui.options import client_options
from cli.ui.recipe_options import RecipeCommand
from cli.ui.recognizer import Recognizer, recognizer_at
from cli.ui.sigterm import INTERRUPTED, run_until_sigterm
from cli.ui.staging_options import StageOptions, stage_options
from cli.ui.tracking import Tracking, tracker_option
from stal_data.errors import NotFoundError
from svc_common.config import ClientConfig

if TYPE_CHECKING:
    from protos.generated import recognizer_pb2 as pb


@click.command(cls=RecipeCommand)
@click.argument("recipe", required=False)
@click.option("--store", "store_url", help="Folder or s3:// URL of the store; used without --recognizer.")
@stage_options
@click.option(
    "--data",
    "dataset",
    type=click.Path(exists=True, path_type=Path),
    help="Data set whose frames are read, for a recipe with training.backbone.",
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change the recipe, e.g. head.depth=1.")
@click.option("--run-id", help="Name of the run, unique in the store; default: recipe, time and a random end.")
@click.option("--resume", is_flag=True, help="Continue --run-id from its latest checkpoint; RECIPE may be left out.")
@click.option(
    "--resume-or-start",
    is_flag=True,
    help="Resume --run-id where it has a job, else start it with RECIPE: for schedulers, which repeat a command.",
)
@click.option(
    "--nproc-per-node",
    type=click.IntRange(1, 64),
    help="Processes on each machine; default: one per GPU, or one without a GPU.",
)
@click.option("--nnodes", type=click.IntRange(1, 1024), default=1, show_default=True, help="Number of machines.")
@click.option("--node-rank", type=click.IntRange(0, 1023), default=0, show_default=True, help="Which of them, from 0.")
@click.option("--rdzv-endpoint", default="", metavar="HOST:PORT", help="Where the machines meet: on machine 0.")
@click.option("--backend", type=click.Choice(["gloo", "nccl"]), help="Default: nccl where each process has a GPU.")
@click.option(
    "--max-restarts", type=click.IntRange(0, 100), default=0, show_default=True, help="Fresh starts after a failure."
)
@tracker_option
@client_options("recognizer", required=False)
def train(
    client: ClientConfig | None,
    recipe: str | None,
    store_url: str | None,
    stage: StageOptions,
    dataset: Path | None,
    overrides: tuple[str, ...],
    run_id: str | None,
    resume: bool,
    resume_or_start: bool,
    tracker: str | None,
    **launch: Any,
) -> None:
    """Train a head on cached features. RECIPE is a YAML file or the name of a shipped recipe.

    This command trains, and Ctrl-C ends the training with a checkpoint. With --recognizer a service trains, and goes
    on when this command is interrupted.

    \b
    Examples:
      stal-cli train acar --store store --set head.depth=1 --run-id first
      stal-cli train --run-id first --resume --store store
      stal-cli train acar --recognizer 127.0.0.1:50052 --nproc-per-node 2 --backend gloo
      stal-cli train relation --store store --set data.dataset=first --set 'data.additional=[second]'
      stal-cli train acar-joint --store store --data chaotic-world
      stal-cli train acar --store s3://bucket/store --stage /scratch/stage --stage-limit 500GB
      MLFLOW_TRACKING_URI=http://tracker:5000 stal-cli train acar --store store --tracker mlflow
    """
    from protos.generated import recognizer_pb2 as pb
    from recognizer_svc.runs.run_dir import new_run_id
    from recognizer_svc.training.recipe import load_recipe, read_recipe

    if recipe is None and not resume:
        raise click.UsageError("Missing argument 'RECIPE'; only --resume goes without one.")
    if run_id is None and resume:
        raise click.UsageError("--resume needs --run-id; 'stal-cli runs list --store STORE' shows the runs.")
    if resume_or_start and (recipe is None or run_id is None):
        raise click.UsageError("--resume-or-start needs RECIPE and --run-id.")
    if recipe is None and overrides:
        raise click.UsageError("--set changes a RECIPE, and none is given.")
    if dataset is not None and client is not None:
        raise click.UsageError("--data goes without --recognizer; a service reads data sets below its --data-root.")
    if stage.folder is not None and client is not None:
        raise click.UsageError("--stage goes without --recognizer; a service has its own.")
    if client is None and launch["nnodes"] > 1:
        raise click.UsageError(
            "--nnodes needs --recognizer: the traffic between machines is not encrypted, so their operator names a "
            "trusted network interface with 'stal-cli serve recognizer --interface NAME'."
        )
    folder = None if dataset is None else dataset_folder(dataset)
    text, loaded = "", None
    if recipe is not None:
        if folder is not None:
            overrides = (*overrides, f"data.folder={json.dumps(folder.name)}")
        # Checked here already: a typing mistake shows at once and with the file's name.
        loaded = load_recipe(recipe, overrides)
        if folder is not None and loaded.training.backbone == "none":
            raise click.UsageError(f"--data has no effect: recipe '{loaded.name}' trains no backbone.")
        text, _ = read_recipe(recipe)
        run_id = run_id or new_run_id(loaded.name)
    assert run_id is not None
    request = pb.TrainRequest(
        run_id=run_id,
        recipe=text,
        overrides=overrides,
        resume=resume,
        request_id=secrets.token_hex(16),
        launch=pb.Launch(**launch),
    )
    where = f"--recognizer {client.address}" if client is not None else f"--store {store_url}"
    data_root = None if folder is None else folder.parent
    recognizer = recognizer_at(client, store_url, data_root=data_root, stage=stage)
    try:
        run = run_until_sigterm if client is None else asyncio.run
        with Tracking(tracker) as tracking:
            show = partial(tracking.show, request.run_id, loaded)
            job = run(_follow(recognizer, request, where, show, resume_or_start=resume_or_start, here=client is None))
    except KeyboardInterrupt:
        _say_what_goes_on(request.run_id, where, here=client is None)
        sys.exit(INTERRUPTED)
    elsewhere = store_url is not None and not store_url.startswith("s3://")
    if elsewhere and not Path(str(store_url), "runs", job.run_id).is_dir():
        click.echo(f"Note: the service works on another store than --store: the run is {job.run_dir}", err=True)
    _report(job, where)


def dataset_folder(dataset: Path) -> Path:
    """Return the absolute folder of a data set that is named by its folder or its dataset.yaml."""
    path = dataset.absolute()
    return path.parent if path.is_file() else path


async def _follow(
    recognizer: Recognizer,
    request: "pb.TrainRequest",
    where: str,
    show: "Callable[[pb.JobUpdate], None]",
    *,
    resume_or_start: bool,
    here: bool,
) -> "pb.Job":
    """Show the job until it ends, also to `show`. On Ctrl-C or SIGTERM a job of this process ends with a checkpoint."""
    from cli.ui.job_display import JobDisplay
    from protos.generated import recognizer_pb2 as pb
    from svc_common.errors import ServiceUnavailableError

    job = pb.Job()
    async with recognizer:
        if resume_or_start:
            request.resume = await _has_job(recognizer, request.run_id)
        try:
            with JobDisplay() as display:
                async for update in recognizer.train(request):
                    display.show(update)
                    show(update)
                    if update.WhichOneof("update") == "job":
                        job = update.job
        except asyncio.CancelledError:
            if here:
                click.echo("Cancelling the job; it writes a checkpoint first.", err=True)
                still = partial(click.echo, "Still stopping: the training writes its checkpoint.", err=True)
                asyncio.get_running_loop().add_signal_handler(signal.SIGINT, still)
            raise
        except ServiceUnavailableError as error:
            if here or not job.run_id:
                raise
            raise ServiceUnavailableError(
                f"{error}\nThe job goes on without this command, if its machine does. Watch it with: "
                f"stal-cli jobs watch {request.run_id} {where}"
            ) from error
    return job


async def _has_job(recognizer: Recognizer, run_id: str) -> bool:
    # Of several machines one may find the job that another has just begun; resuming is then the same as starting.
    try:
        await recognizer.get_job(run_id)
    except NotFoundError:
        return False
    return True


def _say_what_goes_on(run_id: str, where: str, *, here: bool) -> None:
    if here:
        text = f"Cancelled. Continue it with: stal-cli train --run-id {run_id} --resume {where}"
    else:
        text = (
            f"The job goes on. Watch it with: stal-cli jobs watch {run_id} {where}\n"
            f"Stop it with: stal-cli jobs cancel {run_id} {where}"
        )
    click.echo(text, err=True)


def _report(job: "pb.Job", where: str) -> None:
    from cli.commands.jobs import check_ended_well

    check_ended_well(job)
    click.echo(f"Run {job.run_id} is trained: {job.run_dir}")
    click.echo(f"Next: stal-cli predict --run {job.run_id} {where} --dataset ... --split ... --output predictions.csv")
