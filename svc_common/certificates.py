"""TLS of a service: its certificate and key, the authorities of its clients, read again when the files change."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from stal_data.errors import InputError
from svc_common.config import ServerConfig
from svc_common.reloaded import Reloaded


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    grpc_configuration: grpc.ServerCertificateConfiguration
    https: ssl.SSLContext


class ServerCertificates:
    """A new connection gets what the files hold then; open connections keep what they began with."""

    def __init__(self, cert: Path, key: Path, client_authorities: Path | None) -> None:
        """client_authorities: when given, gRPC clients must show a certificate signed by one of them."""
        self._demand = client_authorities is not None
        paths = [path for path in (cert, key, client_authorities) if path is not None]
        self._files = Reloaded(paths, lambda: _load(cert, key, client_authorities))
        self._sent = self._files.get()

    @classmethod
    def of(cls, config: ServerConfig) -> "ServerCertificates | None":
        """What the options name; None without TLS."""
        if config.tls_cert is None or config.tls_key is None:
            return None
        return cls(config.tls_cert, config.tls_key, config.tls_ca)

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For the gRPC port."""
        return grpc.dynamic_ssl_server_credentials(self._sent.grpc_configuration, self._changed, self._demand)  # type: ignore[arg-type]  # the stub forgets None

    def https_context(self) -> ssl.SSLContext:
        """For the next connection to the HTTP port, which asks for no client certificate: probes have none."""
        return self._files.get().https

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """What grpc asks before each handshake: the new configuration, or None to keep the one it has."""
        present = self._files.get()
        if present is self._sent:
            return None
        self._sent = present
        return present.grpc_configuration


def _load(cert: Path, key: Path, client_authorities: Path | None) -> _Loaded:
    try:
        https = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        https.load_cert_chain(cert, key, password=_no_password)
        if client_authorities is not None:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(client_authorities)
        configuration = grpc.ssl_server_certificate_configuration(
            [(key.read_bytes(), cert.read_bytes())],
            root_certificates=client_authorities.read_bytes() if client_authorities else None,
        )
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise InputError(
            f"--tls-cert '{cert}', --tls-key '{key}'"
            + (f" and --tls-ca '{client_authorities}'" if client_authorities else "")
            + f" must be valid PEM files, the key without a password and of that certificate ({error})."
        ) from error
    return _Loaded(grpc_configuration=configuration, https=https)


def _no_password() -> str:
    """Else OpenSSL would ask the terminal for it."""
    raise ValueError("the key has a password")
