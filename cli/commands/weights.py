"""`stal-cli weights`: published checkpoints as our weight files, and what a weight file is."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cache.backbones import BACKBONES
from cli.ui.backbone_options import preset_options
from cli.ui.json_output import json_option, print_json
from stal_data.amounts import amount

if TYPE_CHECKING:
    from recognizer_svc.training.import_checkpoint import Import

_MIB = 2**20
_LISTED = 12


@click.group()
def weights() -> None:
    """Import published checkpoints; describe weight files.

    \b
    Examples:
      stal-cli weights import SLOWFAST_R50_K400.pth.tar --kind slowfast --output weights
      stal-cli weights info weights/slowfast.safetensors
    """


@weights.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--kind",
    type=click.Choice([*BACKBONES, "full"]),
    required=True,
    help="What FILE holds; full: the backbones and the head.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for KIND.safetensors, and head.safetensors of a whole checkpoint; files of these names are replaced.",
)
@preset_options
@click.option(
    "--skip-objects",
    is_flag=True,
    help="Leave objects of classes that are not read out, instead of refusing FILE. None of their code runs.",
)
def import_command(file: Path, kind: str, output: Path, skip_objects: bool, presets: dict[str, str]) -> None:
    """Turn a published checkpoint FILE (.pth, .pth.tar, .bin, .safetensors) into weight files of this program.

    A pickled FILE is read by a loader that builds nothing but containers, numbers, strings and tensors. The tensors
    may lie at the top level or under state_dict, model_state, model or module. A missing tensor or a wrong shape is an
    error that lists them all, and nothing is written.

    \b
    Examples:
      stal-cli weights import vit_g_ps14_ak_ft_ckpt_7_clean.pth --kind vit --output weights
      stal-cli weights import SFR50_VITG_ACAR_CWtrain_ckpt_12.pth.tar --kind full --output store/weights
      stal-cli weights import model.safetensors --kind vit --vit-preset videomae-base --output weights
      stal-cli weights import resnet18.bin --kind timm --timm-preset resnet18 --output weights
    """
    from cache.backbones.architectures import preset_config
    from recognizer_svc.training.import_checkpoint import import_checkpoint

    sizes = {name: (preset, preset_config(name, preset)) for name, preset in presets.items()}
    with _progress() as progress:
        imported = import_checkpoint(
            file,
            kind,
            output,
            sizes=sizes,
            skip_objects=skip_objects,
            progress=progress,
        )
    _report(imported)


@weights.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--skip-objects", is_flag=True, help="As in 'weights import'; for a pickled checkpoint.")
@json_option
def info(file: Path, skip_objects: bool, as_json: bool) -> None:
    """Say what a weight FILE is: a .safetensors file, or a pickled checkpoint.

    \b
    Example:
      stal-cli weights info store/weights/head.safetensors
    """
    from recognizer_svc.training.describe_weights import describe

    rows, parts = describe(file, skip_objects=skip_objects)
    if as_json:
        sizes = {name: {"tensors": count, "numbers": numbers} for name, (count, numbers) in parts.items()}
        print_json({"file": file, "facts": rows, "parts": sizes})
        return
    _table(str(file), ("", ""), [(name, value) for name, value in rows.items()])
    _table(
        "Tensors by the first part of their name",
        ("part", "tensors", "numbers"),
        [(name, str(count), f"{numbers:,}") for name, (count, numbers) in parts.items()],
    )


def _report(imported: "Import") -> None:
    _table(
        "Loaded",
        ("file", "tensors", "missing", "set to 0", "sha256 of the tensors"),
        [
            (str(item.path), str(len(item.loaded)), "0", str(len(item.zeroed)), item.digest[:16])
            for item in imported.files
        ],
    )
    ignored = _by_reason(imported)
    if ignored:
        _table("Ignored", ("file", "reason", "entries", "names"), ignored)
    if imported.epoch is not None:
        click.echo(f"Trained for {amount(imported.epoch, 'epoch')}.")


def _by_reason(imported: "Import") -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    sources: list[tuple[str, Mapping[str, str]]] = [(item.path.stem, item.ignored) for item in imported.files]
    for part, ignored in [*sources, ("-", imported.ignored)]:
        names: dict[str, list[str]] = {}
        for name, reason in ignored.items():
            names.setdefault(reason, []).append(name)
        for reason, found in names.items():
            rest = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
            rows.append((part, reason, str(len(found)), ", ".join(found[:_LISTED]) + rest))
    return rows


def _table(title: str, headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from cli.ui.tables import add_row, print_table

    table = Table(title=Text(title), title_justify="left", show_header=any(headings))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        add_row(table, *row)
    print_table(table)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not console.is_terminal:

        def line(stage: str, done: int, total: int) -> None:
            if done == total:
                click.echo(f"{stage}: {total / _MIB:.1f} MiB", err=True)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console) as bar:
        tasks = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done)

        yield show
