"""`stal-cli models`: the heads that a running recognizer answers single key frames with."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.table import Table

from cli.commands.models_pack import export, install, pack
from cli.ui.json_output import json_option, message_fields, print_json
from cli.ui.options import client_options
from cli.ui.tables import add_row, print_table
from svc_common.config import ClientConfig

if TYPE_CHECKING:
    from recognizer_svc.client import RecognizerClient

T = TypeVar("T")
_CHECKPOINT = click.option(
    "--checkpoint",
    type=click.Choice(["best", "latest"]),
    help="Must be what the callers ask for; default: none, which stands for best where the run keeps it, else latest.",
)


@click.group()
def models() -> None:
    """Pack a trained head with all that it needs; load heads into a running recognizer, swap and unload them.

    A loaded head answers Recognize calls until it is loaded again or unloaded, whatever becomes of its file. A head
    that does not load leaves the one before in place.

    \b
    Examples:
      stal-cli models pack first --store store --output first.stal --slowfast slowfast.safetensors
      stal-cli models list --recognizer 127.0.0.1:50052
      stal-cli models load first --recognizer 127.0.0.1:50052
      stal-cli models unload first --recognizer 127.0.0.1:50052
    """


models.add_command(pack)
models.add_command(install)
models.add_command(export)


@models.command("list")
@json_option
@client_options("recognizer", required=True)
def list_command(client: ClientConfig, as_json: bool) -> None:
    """List the loaded heads, then those of the other runs that can score, newest first."""
    found = _call(client, lambda recognizer: recognizer.all_models())
    names = {(model.run_id, model.checkpoint) for model in found.loaded}
    others = (model for model in found.models if (model.run_id, model.checkpoint) not in names)
    listed = [*found.loaded, *others]
    if as_json:
        print_json([message_fields(model) for model in listed])
        return
    table = Table("run", "checkpoint", "head", "epoch", "validation mAP", "loaded")
    for model in listed:
        add_row(
            table,
            model.run_id,
            model.checkpoint,
            model.head,
            str(model.epoch),
            f"{model.validation_map:.4f}" if model.HasField("validation_map") else "-",
            model.digest or "-",
        )
    print_table(table)


@models.command()
@click.argument("run_id", metavar="RUN")
@_CHECKPOINT
@client_options("recognizer", required=True)
def load(client: ClientConfig, run_id: str, checkpoint: str | None) -> None:
    """Load a head as its file is now, in place of the one that was loaded under the same name."""
    model = _call(client, lambda recognizer: recognizer.load_model(run_id, checkpoint or ""))
    click.echo(f"Loaded {model.run_id}, {model.checkpoint} of epoch {model.epoch}: {model.head}, {model.digest}")


@models.command()
@click.argument("run_id", metavar="RUN")
@_CHECKPOINT
@client_options("recognizer", required=True)
def unload(client: ClientConfig, run_id: str, checkpoint: str | None) -> None:
    """Forget a loaded head; calls get it from its file again."""
    _call(client, lambda recognizer: recognizer.unload_model(run_id, checkpoint or ""))
    click.echo(f"Unloaded {run_id}.")


def _call(client: ClientConfig, ask: "Callable[[RecognizerClient], Coroutine[Any, Any, T]]") -> T:
    from recognizer_svc.client import RecognizerClient

    async def run() -> T:
        async with RecognizerClient(client) as recognizer:
            return await ask(recognizer)

    return asyncio.run(run())
