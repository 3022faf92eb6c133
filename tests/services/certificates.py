"""Throw-away certificates, made with the openssl command."""

import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization


@dataclass(frozen=True)
class Authority:
    """A certificate authority and the folder it writes to."""

    folder: Path
    certificate: Path
    key: Path


def make_authority(folder: Path, name: str) -> Authority:
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    _openssl("req", "-x509", "-keyout", key, "-out", certificate, "-subj", f"/CN={name}", *_NEW)
    return Authority(folder, certificate, key)


def make_certificate(
    authority: Authority, name: str, *, valid_for: str = "IP:127.0.0.1,DNS:localhost"
) -> tuple[Path, Path]:
    """Return certificate and key for `name`. valid_for: addresses and names of the service, as openssl writes them."""
    certificate, key = authority.folder / f"{name}.pem", authority.folder / f"{name}.key"
    request, extensions = authority.folder / f"{name}.csr", authority.folder / f"{name}.ext"
    extensions.write_text(f"subjectAltName={valid_for}\n")
    _openssl("req", "-new", "-keyout", key, "-out", request, "-subj", f"/CN={name}", *_NEW[:-2])
    signer = ("-CA", authority.certificate, "-CAkey", authority.key, "-CAcreateserial")
    _openssl("x509", "-req", "-in", request, *signer, "-extfile", extensions, "-days", 2, "-out", certificate)
    return certificate, key


def redate(authority: Authority, certificate: Path, *, days_from_now: tuple[float, float]) -> None:
    """Let the authority sign the certificate again, valid from and until so many days from now.

    Not by the openssl command, which takes a start only in versions of late 2024 and after.
    """
    old = x509.load_pem_x509_certificate(certificate.read_bytes())
    begin, end = (datetime.now(UTC) + timedelta(days=days) for days in days_from_now)
    builder = x509.CertificateBuilder(old.issuer, old.subject, old.public_key(), old.serial_number, begin, end)
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    key = serialization.load_pem_private_key(authority.key.read_bytes(), None)
    new = builder.sign(key, hashes.SHA256())
    certificate.write_bytes(new.public_bytes(serialization.Encoding.PEM))


_NEW = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
