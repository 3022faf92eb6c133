"""`stal-cli status`: every configured service in one table."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import click

from cli.ui.json_output import json_option, print_json
from cli.ui.options import client_settings
from cli.ui.params import Real
from svc_common.addresses import split_list
from svc_common.config import ClientConfig


@click.command()
@click.option(
    "--detector", "detectors", metavar="HOST:PORT", multiple=True, envvar="STAL_DETECTOR", help="Repeat for several."
)
@click.option(
    "--recognizer",
    "recognizers",
    metavar="HOST:PORT",
    multiple=True,
    envvar="STAL_RECOGNIZER",
    help="Repeat for several.",
)
@click.option(
    "--services",
    "services_file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="STAL_SERVICES",
    help="YAML list of services: detector or recognizer, and the options to reach it.",
)
@click.option("--timeout-s", type=Real(0.1, 60), default=5.0, show_default=True, help="For each service.")
@json_option
@client_settings
def status(
    detectors: tuple[str, ...],
    recognizers: tuple[str, ...],
    services_file: Path | None,
    timeout_s: float,
    as_json: bool,
    settings: dict[str, Any],
) -> None:
    """Show each service with its state, model, device, load and jobs; of dns:///NAME:PORT each replica.

    Exit code 0 when all are ready, else 1. Addresses come from the options, a file, or the variables STAL_DETECTOR,
    STAL_RECOGNIZER (several with spaces or commas between) and STAL_SERVICES.

    \b
    Examples:
      stal-cli status --detector 127.0.0.1:50051 --recognizer 127.0.0.1:50052
      stal-cli status --detector dns:///detector:50051 --tls-ca ca.pem --token-file token
      stal-cli status --services services.yaml

    \b
    A services file:
      - detector: gpu1:50051
        tls_ca: ca.pem
        token_file: token
      - recognizer: 127.0.0.1:50052
        tls_ca: ca.pem
        server_name: recognizer.stal.svc
        token_file: token
    """
    from rich.table import Table

    from cli.ui.service_status import Kind, ServiceToAsk, ask_all
    from cli.ui.services_file import read_services
    from cli.ui.tables import add_row, print_table

    given: list[tuple[Kind, str]] = [
        *(("detector", address) for given in detectors for address in split_list(given)),
        *(("recognizer", address) for given in recognizers for address in split_list(given)),
    ]
    services = [ServiceToAsk(kind=kind, client=ClientConfig(address=address, **settings)) for kind, address in given]
    if services_file is not None:
        services += read_services(services_file)
    if not services:
        raise click.UsageError("Name the services: --detector HOST:PORT, --recognizer HOST:PORT, or --services FILE.")
    found = asyncio.run(ask_all(services, timeout_s=timeout_s))
    if as_json:
        print_json(found)
    else:
        table = Table("service", "address", "state", "model", "device", "load", "jobs", "message")
        for line in found:
            cells = (line.kind, line.address, line.state, line.model, line.device, line.load, line.jobs, line.message)
            add_row(table, *cells)
        print_table(table)
    if not all(line.ready for line in found):
        sys.exit(1)
