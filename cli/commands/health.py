"""`stal-cli health`: an exec probe."""

import asyncio
from typing import Any

import click

from cli.ui.options import client_settings
from cli.ui.params import LONGEST_S, Real
from svc_common.config import ClientConfig


@click.command()
@click.argument("address", metavar="HOST:PORT")
@click.option("--live", is_flag=True, help="Ask whether the process lives, not whether it is ready.")
@click.option("--timeout-s", type=Real(0, LONGEST_S, min_open=True), default=5.0, show_default=True, help="For it all.")
@client_settings
def health(address: str, live: bool, timeout_s: float, settings: dict[str, Any]) -> None:
    """Ask a service whether it is ready; exit with 0 when it is, else with 1. No token is needed.

    For schedulers' exec probes where the service demands client certificates. Starts within a second: no torch.

    \b
    Examples:
      stal-cli health 127.0.0.1:50051
      stal-cli health 127.0.0.1:50051 --live --tls-ca ca.pem --tls-cert probe.pem --tls-key probe.key \\
          --server-name detector.example.org
    """
    from svc_common.probe import probe

    config = ClientConfig(address=address, **settings)
    asyncio.run(probe(config, service="live" if live else "", timeout_s=timeout_s))
    click.echo("live" if live else "ready")
