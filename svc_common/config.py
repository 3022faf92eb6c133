"""How a service listens and how a client reaches it. No grpc here, so that the CLI can build these for `--help`."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from stal_data.errors import InputError, NotFoundError
from stal_data.hosts import is_host, is_loopback
from svc_common.logs import LogFormat

DEFAULT_MESSAGE_BYTES = 32 << 20  # 32 MiB
DNS_PREFIX = "dns:///"
"""Before NAME:PORT in a client's address: the name stands for as many replicas as it has addresses."""


def join_address(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def split_address(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; the port is 1 to 65535."""
    if is_address(address):
        host, _, port = address.rpartition(":")
        return host, int(port)
    bare = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*:/*(?=.*:)|/.*$", "", address)
    bracketed = f"[{address.rpartition(':')[0]}]:{address.rpartition(':')[2]}"
    hint = "e.g. 127.0.0.1:50051"
    if is_address(bracketed):
        hint = f"and an IPv6 address is in brackets: {bracketed}"
    elif is_address(bare):
        hint = f"without a scheme and a path: {bare}"
    raise InputError(f"Address '{address}' must be HOST:PORT with a port from 1 to 65535, {hint}.")


def is_address(text: str) -> bool:
    """True for HOST:PORT with a port from 1 to 65535."""
    host, _, port = text.rpartition(":")
    return is_host(host) and re.fullmatch(r"[0-9]{1,5}", port) is not None and 0 < int(port) < 65536


def _check_hosts(**hosts: str | None) -> None:
    for field, host in hosts.items():
        if host and not (is_host(host) or is_host(f"[{host}]")):
            raise InputError(
                f"--{field.replace('_', '-')} '{host}' must be a name or an address alone, such as 127.0.0.1, without "
                "a scheme and a port."
            )


def _check_files(**files: Path | None) -> None:
    for field, path in files.items():
        if path is not None and not path.is_file():
            raise NotFoundError(f"--{field.replace('_', '-')} '{path}' is not a file.")


def read_tokens(path: Path) -> tuple[str, ...]:
    """The bearer tokens in a file, one a line: a service takes each of them, a client sends the first.

    Each has at least 16 visible ASCII characters; empty lines and outer white space do not count.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    tokens = tuple(line.strip() for line in lines if line.strip())
    if not tokens or any(len(token) < 16 or not token.isascii() or not _visible(token) for token in tokens):
        raise InputError(
            f"Each token in '{path}' must be a line of at least 16 ASCII characters without spaces. "
            "Make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return tokens


def _visible(text: str) -> bool:
    return text.isprintable() and " " not in text


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Where a service listens and what it accepts."""

    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free port; `ServiceServer.start` returns the one taken."""
    tls_cert: Path | None = None
    """PEM certificate chain; together with tls_key it turns TLS on."""
    tls_key: Path | None = None
    tls_ca: Path | None = None
    """PEM authorities; when given, a client must show a certificate signed by one of them (mTLS)."""
    token_file: Path | None = None
    """When given, a client must send one of this file's tokens. Read again when it changes, as the PEM files are."""
    insecure: bool = False
    """Allow an address that other machines reach without TLS, or with TLS but neither token_file nor tls_ca; of the
    metrics port, without token_file."""
    max_message_bytes: int = DEFAULT_MESSAGE_BYTES
    """Both directions."""
    metrics_port: int | None = None
    """/metrics, /live and /ready over HTTP, over HTTPS where TLS is on. 0 takes a free port; None turns it off. Where
    other machines reach it, it needs token_file."""
    metrics_host: str | None = None
    """Where the metrics port listens; None means `host`."""
    reflection: bool = False
    grace_s: float = 10.0
    """How long running calls may go on after SIGTERM."""
    log_format: LogFormat = "text"
    """Of the lines on stderr."""
    port_file: Path | None = None
    """Written atomically once the service is ready: the port in decimal."""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise InputError(f"--port {self.port} must be 0 to 65535 (0 takes a free one).")
        _check_hosts(host=self.host, metrics_host=self.metrics_host)
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InputError("--tls-cert and --tls-key go together; give both or neither.")
        if self.tls_ca is not None and self.tls_cert is None:
            raise InputError("--tls-ca (client certificates) needs --tls-cert and --tls-key.")
        if self.tls_cert is None and not self.insecure and not is_loopback(self.host):
            raise InputError(
                f"--host '{self.host}' is reached by other machines and no TLS is set. Give --tls-cert and --tls-key, "
                "listen on 127.0.0.1, or accept plain text on a trusted network with --insecure."
            )
        if self.tls_cert is None and not self.insecure and not is_loopback(self.metrics_host or self.host):
            raise InputError(
                f"--metrics-host '{self.metrics_host}' is reached by other machines and no TLS is set. Give --tls-cert "
                "and --tls-key, listen on 127.0.0.1, or accept plain text on a trusted network with --insecure."
            )
        if self.token_file is None and self.tls_ca is None and not self.insecure and not is_loopback(self.host):
            raise InputError(
                f"--host '{self.host}' is reached by other machines, and whoever is there could use the service. Give "
                "--token-file, or --tls-ca for client certificates, or accept everybody on a trusted network with "
                "--insecure."
            )
        self._check_metrics()
        if self.max_message_bytes < 1024:
            raise InputError(f"The message limit of {self.max_message_bytes} bytes must be at least 1024.")
        if self.grace_s < 0:
            raise InputError(f"--grace-s {self.grace_s} must not be negative.")
        _check_files(tls_cert=self.tls_cert, tls_key=self.tls_key, tls_ca=self.tls_ca, token_file=self.token_file)

    def _check_metrics(self) -> None:
        """/metrics names runs, and over HTTP nobody is asked for a client certificate."""
        host = self.metrics_host or self.host
        if self.metrics_port is None or self.token_file is not None or self.insecure or is_loopback(host):
            return
        option = "--host" if self.metrics_host is None else "--metrics-host"
        raise InputError(
            f"--metrics-port {self.metrics_port} on {option} '{host}' is reached by other machines, and only a token "
            "keeps them from /metrics; client certificates are not asked for there. Give --token-file, keep it on this "
            "machine with --metrics-host 127.0.0.1, or accept everybody on a trusted network with --insecure."
        )


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """How to reach one service."""

    address: str
    """HOST:PORT, or dns:///NAME:PORT."""
    tls_ca: Path | None = None
    """PEM authorities that sign the service's certificate; turns TLS on."""
    tls_cert: Path | None = None
    """PEM certificate chain of this client (mTLS), together with tls_key."""
    tls_key: Path | None = None
    token_file: Path | None = None
    server_name: str | None = None
    """The name that the service's certificate is for, where that is not the address's."""
    insecure: bool = False
    """Allow another machine without TLS: frames, scores and the token travel in plain text."""
    max_message_bytes: int = DEFAULT_MESSAGE_BYTES
    wait_s: float = 0.0
    """How long to wait for a service that is just starting."""

    def __post_init__(self) -> None:
        host, _ = self.endpoint
        _check_hosts(server_name=self.server_name)
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InputError("--tls-cert and --tls-key go together; give both or neither.")
        if self.tls_cert is not None and self.tls_ca is None:
            raise InputError("--tls-cert (this client's certificate) needs --tls-ca, which turns TLS on.")
        if self.server_name is not None and self.tls_ca is None:
            raise InputError(
                "--server-name (the name in the service's certificate) needs --tls-ca, which turns TLS on."
            )
        if self.tls_ca is None and not self.insecure and not is_loopback(host):
            raise InputError(
                f"'{self.address}' is another machine, and everything, a token included, would travel there in plain "
                "text. Give --tls-ca, or accept that on a trusted network with --insecure."
            )
        _check_files(tls_cert=self.tls_cert, tls_key=self.tls_key, tls_ca=self.tls_ca, token_file=self.token_file)

    @property
    def endpoint(self) -> tuple[str, int]:
        """Host, or name, and port."""
        return split_address(self.address.removeprefix(DNS_PREFIX))

    @property
    def is_name(self) -> bool:
        """True for dns:///NAME:PORT."""
        return self.address.startswith(DNS_PREFIX)

    def at(self, address: str) -> Self:
        """The replica at one of the name's addresses; its certificate must be for the name."""
        name = None if self.tls_ca is None else self.server_name or self.endpoint[0]
        return replace(self, address=address, server_name=name)
