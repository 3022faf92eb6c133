"""`stal-cli serve recognizer`."""

import asyncio
from pathlib import Path
from typing import Any

import click

from cache.backbones.choice import BackboneChoice
from cache.store import Store
from cli.ui.backbone_options import backbone_options
from cli.ui.options import server_options
from cli.ui.params import LONGEST_S, Real
from cli.ui.staging_options import StageOptions, stage_options
from recognizer_svc.packed_models.description import read_packed_model
from recognizer_svc.service.bounds import LONGEST_STOP_S
from svc_common.config import ServerConfig


@click.command()
@click.option("--store", "store_url", required=True, help="Folder or s3:// URL of the store; made when missing.")
@stage_options
@click.option("--device", default="auto", show_default=True, help="Of the scoring: auto, cpu or cuda:N.")
@click.option("--max-jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Jobs that run at once.")
@click.option(
    "--max-queued",
    type=click.IntRange(0, 1000),
    default=16,
    show_default=True,
    help="Jobs that wait at most.",
)
@click.option(
    "--max-requests",
    type=click.IntRange(1, 1000),
    default=16,
    show_default=True,
    help="Scoring calls in progress at most.",
)
@click.option(
    "--max-batch",
    type=click.IntRange(1, 32),
    default=32,
    show_default=True,
    help="Recognize calls that share a pass when they wait anyway; 1 computes each alone.",
)
@click.option(
    "--job-stop-s",
    "stop_timeout_s",
    type=Real(1, LONGEST_STOP_S),
    default=60.0,
    show_default=True,
    help="Seconds that a cancelled job gets to write its checkpoint.",
)
@click.option(
    "--job-stall-s",
    "stall_timeout_s",
    type=Real(0, LONGEST_S),
    default=3600.0,
    show_default=True,
    help="Stop a job that says nothing for so long; 0 turns it off.",
)
@click.option(
    "--interface",
    help="Trusted network interface for jobs on several machines, whose traffic is not encrypted. Without it they are "
    "refused.",
)
@click.option(
    "--model",
    "packed_models",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Repeatable: a folder that 'models pack' wrote; it becomes a run of the store. The service holds the "
    "backbones whose weights are in it.",
)
@backbone_options(required=False)
@click.option(
    "--max-streams",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="Videos that are scored at once at most, with the features computed here.",
)
@click.option(
    "--keep-features",
    "max_kept",
    type=click.IntRange(0, 20_000),
    default=0,
    show_default=True,
    metavar="KEY_FRAMES",
    help="Let clients have the features of videos of so many key frames at most written to the store; 0 refuses that.",
)
@click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    help="Folder whose data sets precompute jobs, and recipes with training.backbone, may name. Without it they are "
    "refused.",
)
@click.option(
    "--machine",
    metavar="NAME",
    help="Name of this machine in the records of jobs, by which a service finds its jobs again: for schedulers that "
    "may start it on another machine. [default: the host name]",
)
@click.option(
    "--cancel-jobs",
    is_flag=True,
    help="At the end cancel the training jobs, each with a checkpoint, instead of leaving them to the next service: "
    "for containers, whose processes all end with the service.",
)
@server_options(default_port=50052)
def recognizer(
    server: ServerConfig,
    store_url: str,
    stage: StageOptions,
    device: str,
    max_requests: int,
    max_batch: int,
    packed_models: tuple[Path, ...],
    backbones: list[BackboneChoice],
    max_streams: int,
    max_kept: int,
    data_root: Path | None,
    cancel_jobs: bool,
    **job_limits: Any,
) -> None:
    """Train heads on cached features and score actions, until SIGTERM or Ctrl-C.

    With the weights of backbones it also scores videos that clients send, whose features nobody has computed. With
    --data-root, too, it computes the features of data sets: precompute --recognizer.

    Training jobs go on when the service ends, and the next one on this machine takes them over; --cancel-jobs stops
    them instead.

    \b
    Examples:
      stal-cli serve recognizer --store store
      stal-cli serve recognizer --store shared-store --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem \\
          --token-file token --interface eth1
      stal-cli serve recognizer --store store --data-root datasets --slowfast slowfast.safetensors
      stal-cli serve recognizer --store store --model chaotic.stal --device cuda:0
    """
    from recognizer_svc.packed_models.install import install
    from recognizer_svc.service.limits import JobLimits
    from recognizer_svc.service.server import RecognizerConfig, serve

    if not packed_models and "://" not in store_url and not Path(store_url).exists():
        click.echo(f"Note: there is no store at {store_url}; this makes a new one, without runs.", err=True)
    store = Store.open(store_url, create=True, stage=stage.stage())
    chosen, named = tuple(backbones), {choice.kind for choice in backbones}
    thresholds = {}
    for folder in packed_models:
        model = read_packed_model(folder.absolute())
        thresholds[model.run_id] = model.thresholds
        click.echo(f"{folder} is the run {install(model, store)}.", err=True)
        for spec in model.feature_spec.backbones:
            if (file := model.backbone_file(spec.kind)) is not None:
                backbones = [*backbones, BackboneChoice(kind=spec.kind, preset=spec.preset, weights=str(file))]
            elif spec.kind not in named:
                click.echo(
                    f"Note: {folder} does not hold the weights of {spec.kind} ({spec.preset}, {spec.weights}), so it "
                    f"scores cached features only. Name their file with --backbone {spec.kind}:{spec.preset}=FILE.",
                    err=True,
                )
    limits = JobLimits(
        data_root=None if data_root is None else data_root.absolute(),
        backbones=(*chosen, *(choice for choice in backbones if choice.kind not in named)),
        end_with_service=cancel_jobs,
        **job_limits,
    )
    config = RecognizerConfig(
        store=store,
        limits=limits,
        device=device,
        max_requests=max_requests,
        max_batch=max_batch,
        backbones=tuple(choice.load for choice in backbones),
        thresholds=thresholds,
        max_streams=max_streams,
        max_kept=max_kept,
        cancel_jobs=cancel_jobs,
    )
    asyncio.run(serve(server, config))
