"""Options that several commands share: how a service listens, how a client reaches it."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from cli.ui.params import LONGEST_S, Real
from svc_common.addresses import split_list
from svc_common.config import DEFAULT_MESSAGE_BYTES, ClientConfig, ServerConfig
from svc_common.logs import LOG_FORMATS

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(dir_okay=False, path_type=Path)
wait_option = click.option(
    "--wait-s",
    type=Real(0, LONGEST_S),
    default=30.0,
    show_default=True,
    help="Seconds to wait for a service that is just starting.",
)
frames_option = click.option(
    "--frames",
    "sending",
    type=click.Choice(["resized", "png", "jpeg"]),
    default="resized",
    show_default=True,
    help="How frames travel to the recognizer. resized: pixels as the backbones see them, exact. png: exact. jpeg: of "
    "quality 95, which changes scores a little.",
)
_CLIENT_FIELDS = ("tls_ca", "tls_cert", "tls_key", "token_file", "server_name", "insecure")
_MESSAGE_MB = click.option(
    "--max-message-mb",
    type=click.IntRange(1, 2047),
    default=DEFAULT_MESSAGE_BYTES >> 20,
    show_default=True,
    help="Largest message in MiB, both directions; the same on both sides.",
)


def with_options(command: Callable[..., Any], options: Sequence[Callable[[Any], Any]]) -> Any:
    """Return the command with options, in the order in which its help shows them."""
    for option in reversed(options):
        command = option(command)
    return command


def server_options(*, default_port: int) -> Callable[[F], F]:
    """Add the listening options; the command receives them as `server: ServerConfig`."""
    options = [
        click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
        click.option(
            "--port",
            type=click.IntRange(0, 65535),
            default=default_port,
            show_default=True,
            help="0 takes a free one.",
        ),
        click.option("--tls-cert", type=_FILE, help="PEM certificate chain; turns TLS on."),
        click.option("--tls-key", type=_FILE, help="PEM key of --tls-cert."),
        click.option("--tls-ca", type=_FILE, help="PEM authorities of client certificates; turns mTLS on."),
        click.option("--token-file", type=_FILE, help="Bearer tokens, one a line; clients must send one."),
        click.option(
            "--insecure",
            is_flag=True,
            help="Allow other machines to connect without TLS, or without --token-file and --tls-ca.",
        ),
        _MESSAGE_MB,
        click.option(
            "--metrics-port",
            type=click.IntRange(0, 65535),
            help="Serve /metrics, /live and /ready over HTTP; over HTTPS with --tls-cert.",
        ),
        click.option("--metrics-host", help="Address of --metrics-port; default: that of --host."),
        click.option("--reflection", is_flag=True, help="Let clients list the methods (grpcurl)."),
        click.option(
            "--grace-s",
            type=Real(0, LONGEST_S),
            default=10.0,
            show_default=True,
            help="Seconds that running calls get after SIGTERM.",
        ),
        click.option(
            "--log-format",
            type=click.Choice(LOG_FORMATS),
            default="text",
            show_default=True,
            help="Of the log on stderr; json is one object a line.",
        ),
        click.option("--port-file", type=_FILE, help="Write the bound port here once ready."),
    ]
    names = [field.name for field in fields(ServerConfig) if field.name != "max_message_bytes"]

    def decorate(function: F) -> F:
        @wraps(function)
        def build(max_message_mb: int, **values: Any) -> Any:
            own = {name: values.pop(name) for name in names}
            return function(server=ServerConfig(max_message_bytes=max_message_mb << 20, **own), **values)

        return cast(F, with_options(build, options))

    return decorate


def client_options(service: str, *, required: bool) -> Callable[[F], F]:
    """Add `--detector` or `--recognizer` HOST:PORT and what goes with it.

    The command receives them as `client: ClientConfig`, or None when the address was not given.
    """
    help_text = f"Where the {service} listens."
    option = click.option(f"--{service}", "address", metavar="HOST:PORT", required=required, help=help_text)

    def decorate(function: F) -> F:
        @wraps(function)
        def build(address: str | None, wait_s: float, settings: dict[str, Any], **values: Any) -> Any:
            client = ClientConfig(address=address, wait_s=wait_s, **settings) if address is not None else None
            return function(client=client, **values)

        return cast(F, with_options(client_settings(build), [option, wait_option]))

    return decorate


def replica_options(service: str) -> Callable[[F], F]:
    """Add `--detector` with one or several addresses and what goes with it; STAL_DETECTOR stands in for it.

    The command receives them as `clients: tuple[ClientConfig, ...]`, empty without an address.
    """
    option = click.option(
        f"--{service}",
        "addresses",
        metavar="ADDRESSES",
        envvar=f"STAL_{service.upper()}",
        show_envvar=True,
        help=f"Where the {service} listens: HOST:PORT, several with commas between, or dns:///NAME:PORT for "
        "each address of a name.",
    )

    def decorate(function: F) -> F:
        @wraps(function)
        def build(addresses: str | None, wait_s: float, settings: dict[str, Any], **values: Any) -> Any:
            found = () if addresses is None else split_list(addresses)
            clients = tuple(ClientConfig(address=address, wait_s=wait_s, **settings) for address in found)
            return function(clients=clients, **values)

        return cast(F, with_options(client_settings(build), [option, wait_option]))

    return decorate


def client_settings(function: F) -> F:
    """Add how to reach a service; the command receives it as `settings`, the fields of ClientConfig but the address."""
    options = [
        click.option("--tls-ca", type=_FILE, help="PEM authorities of the service's certificate; turns TLS on."),
        click.option("--tls-cert", type=_FILE, help="PEM certificate of this client (mTLS)."),
        click.option("--tls-key", type=_FILE, help="PEM key of --tls-cert."),
        click.option("--token-file", type=_FILE, help="File with the bearer token."),
        click.option("--server-name", help="Name in the service's certificate, where it is not that of the address."),
        click.option("--insecure", is_flag=True, help="Allow plain text to other machines, the token included."),
        _MESSAGE_MB,
    ]

    @wraps(function)
    def build(max_message_mb: int, **values: Any) -> Any:
        settings = {name: values.pop(name) for name in _CLIENT_FIELDS}
        return function(settings=settings | {"max_message_bytes": max_message_mb << 20}, **values)

    return cast(F, with_options(build, options))


def client_words(settings: dict[str, Any]) -> tuple[str, ...]:
    """The options of `client_settings` again, for a command that this one runs."""
    words: list[str] = []
    for name in _CLIENT_FIELDS:
        option, value = f"--{name.replace('_', '-')}", settings[name]
        if value is True:
            words.append(option)
        elif value not in (None, False):
            words += [option, str(value)]
    return (*words, "--max-message-mb", str(settings["max_message_bytes"] >> 20))
