"""`stal-cli precompute`: run the backbones once over a split and fill the feature cache."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cache.backbones.choice import BackboneChoice
from cache.store import Store
from cli.commands.cache_commands.text import size
from cli.ui.backbone_options import NAMED, backbone_options, parse_statistics, require_backbones
from cli.ui.json_output import print_json_line
from cli.ui.options import replica_options
from cli.ui.params import COUNT, THREADS
from cli.ui.precompute_progress import extraction_progress, json_progress
from cli.ui.sigterm import INTERRUPTED
from cli.workflow.precompute_processes import precompute_in_processes
from recognizer_svc.runs.run_dir import new_run_id
from stal_data.amounts import amount
from stal_data.owner import end_with
from svc_common.config import ClientConfig

if TYPE_CHECKING:
    from cache.precompute import Estimate

_WORDS = "stal.words"
_LOCAL = ("store", "devices", "shard", "decode_threads", "estimate_only", "backbone", "allow_download")
"""Parameters of this machine, beside those of each backbone: a service has its own."""


class _KeepsWords(click.Command):
    """Remembers what it was called with, for the processes that it starts."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        plugins = ctx.find_root().params.get("plugins", ())
        ctx.meta[_WORDS] = [*(f"--allow-plugin={name}" for name in plugins), str(ctx.info_name), *args]
        return super().parse_args(ctx, args)


@click.command(cls=_KeepsWords)
@click.argument("dataset")
@click.option("--split", required=True, help="Split of the data set, such as train.")
@click.option("--store", help="Folder or s3:// URL of the store; made when missing. Used without --recognizer.")
@backbone_options(required=False)
@click.option(
    "--view",
    "views",
    multiple=True,
    default=["identity"],
    show_default=True,
    type=click.Choice(["identity", "hflip"]),
    help="Repeat for both: training flips clips, prediction does not. Frames are decoded once.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    default="float16",
    show_default=True,
    help="Of the stored maps.",
)
@click.option(
    "--statistics",
    multiple=True,
    metavar="full|MAP=STATISTIC,...",
    help="What is stored of the maps, repeatable: full keeps every time step of all maps in place of its time mean, 13 "
    "times the bytes; slow=full does so for one map. MAP=mean,slope adds its slope over time, MAP=mean,max its "
    "maximum, MAP=mean,moments its moments. slope/2x2/int8 is pooled over 2 rows x 2 columns and stored in int8; "
    "either may be left out.",
)
@click.option(
    "--autocast",
    type=click.Choice(["none", "bf16", "fp16"]),
    default="none",
    show_default=True,
    help="Compute in half precision, which is faster on a GPU and makes another feature set; none is float32.",
)
@click.option("--compile", "compiled", is_flag=True, help="Compile the backbones first; makes another feature set.")
@click.option("--batch-size", type=click.IntRange(1, 1024), default=8, show_default=True, help="Clips a batch.")
@click.option(
    "--device",
    "devices",
    default="auto",
    show_default=True,
    help="auto (every GPU, under torchrun that of LOCAL_RANK, else the CPU), cpu, cuda:0,cuda:1. Several have "
    "a process each, which fills a part of the set.",
)
@click.option(
    "--shard",
    metavar="K/N",
    help="Fill only the K-th of N parts of the set; auto takes K and N from torchrun or Slurm, auto/N takes K from a "
    "Kubernetes indexed job. Default: auto under torchrun, else whatever no other process has claimed.",
)
@click.option(
    "--rows-per-shard",
    type=COUNT,
    help="Key frames written at once, about as many as a kill loses; only for a new set. Default: at most 64, and 16 "
    "where all time steps are kept.",
)
@click.option(
    "--decode-threads",
    type=THREADS,
    help="Of each process. Default: the cores, shared by the processes of the machine, at most 16.",
)
@click.option("--estimate", "estimate_only", is_flag=True, help="Measure a few clips, print time and bytes, and stop.")
@click.option("--json", "as_json", is_flag=True, help="Print progress and results as lines of JSON.")
@replica_options("recognizer")
def precompute(
    clients: tuple[ClientConfig, ...],
    dataset: str,
    split: str,
    store: str | None,
    shard: str | None,
    estimate_only: bool,
    as_json: bool,
    devices: str,
    decode_threads: int | None,
    backbones: list[BackboneChoice],
    statistics: tuple[str, ...],
    **options: Any,
) -> None:
    """Run the backbones once over a split of DATASET and fill the feature cache.

    Stopped or killed, the same command goes on where it was; several machines may run it on one store.
    With --recognizer the services at these addresses compute, and go on when this command is interrupted: with the
    backbones that their operator chose, on a DATASET below their data root.

    \b
    Examples:
      stal-cli precompute data --split train --store store \\
        --slowfast slowfast.safetensors --vit vit.safetensors --view identity --view hflip
      stal-cli precompute data --split train --store store --slowfast slowfast.safetensors \\
        --statistics fast=mean,slope/2x2/int8
      stal-cli precompute data --split train --store store --vit vit.safetensors --autocast fp16 --device cuda:0,cuda:1
      stal-cli precompute data --split train --store store --backbone timm:resnet18=resnet18.safetensors
      stal-cli precompute chaotic-world --split train --view identity --view hflip \\
        --recognizer gpu1:50052,gpu2:50052 --tls-ca ca.pem --token-file token
    """
    named_here = click.get_current_context().get_parameter_source("addresses") is ParameterSource.COMMANDLINE
    if clients and (named_here or store is None):
        _refuse_local_options()
        _by_services(clients, dataset, split, statistics, options, as_json)
        return
    if store is None:
        raise click.UsageError("Give --store STORE, or the addresses of running services with --recognizer HOST:PORT.")
    require_backbones(backbones)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with(os.getppid())  # torchrun, at whose SIGKILL its ranks would go on
    # A kill costs little more than a shard, and to wait for the batches that devices are at may take minutes.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    kept = parse_statistics(statistics, [choice.kind for choice in backbones])

    from cache.precompute import Part, PrecomputeOptions, estimate, feature_sets, prepare, read_part
    from cache.precompute import precompute as run
    from cache.precompute.devices import default_decode_threads, resolve_devices
    from cache.precompute.launch import local_processes, local_rank
    from stal_data.dataset import Dataset

    part = read_part(shard, os.environ)
    targets = resolve_devices(devices, local_rank(os.environ))
    opened = Dataset.open(Path(dataset)).split(split)
    target = Store.open(store, create=not estimate_only, may_lack=estimate_only)
    threads = decode_threads or default_decode_threads(local_processes(os.environ) * len(targets))
    chosen = PrecomputeOptions(
        backbones=[choice.load(kept[choice.kind]) for choice in backbones],
        part=part,
        device=targets[0],
        decode_threads=threads,
        **options,
    )
    if options["autocast"] == "none" and [device.type for device in targets] == ["cuda"]:
        _note(
            "Computing in float32. --autocast fp16 is faster on a GPU and makes another feature set; docs/gpu.md "
            "compares them."
        )
    if estimate_only:
        found = estimate(opened, target, chosen, num_devices=len(targets))
        print_json_line(found) if as_json else _print_estimate(found)
        return
    with json_progress() if as_json else extraction_progress() as progress:
        if len(targets) == 1:
            sets = run(opened, target, chosen, progress=progress, note=_note)
        else:
            prepare(opened, target, chosen, progress=progress)
            parts = (part or Part(number=1, count=1, source="--device")).divided(len(targets))
            precompute_in_processes(
                targets,
                click.get_current_context().meta[_WORDS],
                parts,
                decode_threads=threads,
                progress=progress,
                note=_note,
            )
            sets = feature_sets(opened, target, chosen)
    for features in sets:
        name = f"{features.dataset}/{features.split}/{features.id}"
        done, total = int(features.done.sum()), len(features.key_frames)
        _print_set(name, features.spec.view, done, total, as_json=as_json)


def _refuse_local_options() -> None:
    context = click.get_current_context()
    given = {
        parameter.name: parameter.opts[0]
        for parameter in context.command.params
        if context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
    }
    local = {*_LOCAL, *NAMED, *(f"{name}_preset" for name in NAMED)}
    if refused := [option for name, option in given.items() if name in local]:
        raise click.UsageError(
            f"{', '.join(refused)}: not with --recognizer. The service's operator chooses store, device and weights "
            "with the options of 'stal-cli serve recognizer'; leave it out, or compute here with --store."
        )


def _by_services(
    clients: tuple[ClientConfig, ...],
    dataset: str,
    split: str,
    statistics: tuple[str, ...],
    options: dict[str, Any],
    as_json: bool,
) -> None:
    from cli.workflow.precompute_services import precompute_at
    from protos.generated import recognizer_pb2 as pb

    options |= {"rows_per_shard": options["rows_per_shard"] or 0}
    request = pb.PrecomputeRequest(
        job_id=new_run_id("precompute"), dataset=dataset, split=split, statistics=statistics, **options
    )
    try:
        with json_progress() if as_json else extraction_progress() as progress:
            sets = asyncio.run(precompute_at(clients, request, progress=progress, note=_note))
    except KeyboardInterrupt:
        _note("What was started goes on; 'stal-cli jobs list --recognizer ADDRESS' shows it.")
        sys.exit(INTERRUPTED)
    for found in sets:
        _print_set(found.name, found.view, found.rows, found.rows_total, as_json=as_json)


def _print_set(name: str, view: str, done: int, total: int, *, as_json: bool) -> None:
    if as_json:
        print_json_line({"set": name, "view": view, "rows": done, "of": total})
    else:
        rows = amount(total, "row") if done == total else f"{done} of {amount(total, 'row')}"
        click.echo(f"{name}: {rows}, {view}")


def _note(text: str) -> None:
    click.echo(text, err=True)


def _print_estimate(found: "Estimate") -> None:
    click.echo(f"{amount(found.num_clips, 'key frame')} to compute, {size(found.num_bytes)} to write")
    free = "" if found.free_bytes is None else f"; {size(found.free_bytes)} free"
    click.echo(f"{size(found.row_bytes)} a key frame and view{free}")
    if not found.num_clips:
        return
    beside = "beside" if found.overlapped else "then"
    click.echo(
        f"about {_duration(found.total_s)}: checking {1 / found.check_s_per_clip:.3g} clips/s, then decoding "
        f"{1 / found.decode_s_per_clip:.3g} clips/s {beside} computing {1 / found.compute_s_per_clip:.3g} clips/s"
    )
    click.echo(f"measured on {amount(found.measured_clips, 'clip')}; the time to write is not in it")
    if found.free_bytes is not None and found.num_bytes > found.free_bytes:
        click.echo(f"The disk is too small: {size(found.num_bytes - found.free_bytes)} more are needed.")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
