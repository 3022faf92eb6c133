"""`stal-cli serve`: the two services."""

import click

from cli.lazy import LazyGroup

SERVICES = {
    "detector": ("cli.commands.serve_detector:detector", "Find people in images with YOLO."),
    "recognizer": ("cli.commands.serve_recognizer:recognizer", "Train heads and score actions."),
}


@click.command(cls=LazyGroup, lazy=SERVICES)
def serve() -> None:
    """Start a service. It runs until SIGTERM or Ctrl-C, then finishes its running calls.

    \b
    Examples:
      stal-cli serve detector --weights person.pt --image-size 180x320
      stal-cli serve recognizer --store store
    """
