"""The services of a set-up, on the hosts where they belong, as operators start them: with TLS and a token."""

import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.network.hosts import INTERFACE, Finished, Host, Network, Program, until
from tests.services.certificates import Authority, make_certificate

STORE_PORT = 9000
DETECTOR_PORT = 50051
RECOGNIZER_PORT = 50052
TOKEN = "a-token-of-the-network-tests"
BUCKET = "stal"


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running service."""

    host: Host
    program: Program
    port: int

    @property
    def address(self) -> str:
        return f"{self.host.name}:{self.port}"

    def kill(self) -> None:
        """SIGKILL."""
        self.program.send(signal.SIGKILL)
        assert self.program.wait(seconds=20).returncode == -signal.SIGKILL

    def stop(self, *, seconds: float) -> Finished:
        """SIGTERM; it must end by itself, with exit code 0, within so many seconds."""
        self.program.send(signal.SIGTERM)
        finished = self.program.wait(seconds=seconds)
        assert finished.returncode == 0, finished
        assert "Traceback" not in finished.stderr
        return finished


def hand_out_secrets(network: Network, authority: Authority) -> None:
    """Put a certificate of its own on each host's disk, and the token and the authority on all."""
    for host in network.hosts.values():
        certificate, key = make_certificate(
            authority, host.name, valid_for=f"IP:{host.address},DNS:{host.name},IP:127.0.0.1"
        )
        for source, name in ((certificate, "cert.pem"), (key, "key.pem"), (authority.certificate, "ca.pem")):
            shutil.copy(source, host.disk / name)
        (host.disk / "token").write_text(TOKEN)


def credentials(host: Host) -> tuple[str, ...]:
    """Options of a command that talks to a service."""
    return ("--tls-ca", str(host.disk / "ca.pem"), "--token-file", str(host.disk / "token"))


def start_store(host: Host) -> Service:
    """An S3 server, which keeps its objects in memory, with an empty bucket."""
    program = host.start_program(sys.executable, "-m", "moto.server", "--host", host.address, "--port", STORE_PORT)
    until(lambda: host.listens(STORE_PORT) or not program.alive, "the S3 server listens")
    make = f"import urllib.request as r; r.urlopen(r.Request('http://{host.name}:{STORE_PORT}/{BUCKET}', method='PUT'))"
    assert host.start_program(sys.executable, "-c", make).wait().returncode == 0, program.output
    return Service(host=host, program=program, port=STORE_PORT)


def start_detector(host: Host, *options: object, port: int = DETECTOR_PORT) -> Service:
    """Start it and wait until it is ready. Its weights are on its disk."""
    weights = ("--weights", host.disk / "tiny.pt", "--image-size", "90x160", "--confidence", 0.5, "--device", "cpu")
    return _start(host, port, "detector", *weights, *options)


def start_recognizer(host: Host, store: str, *options: object, port: int = RECOGNIZER_PORT) -> Service:
    """Start it and wait until it is ready."""
    return _start(host, port, "recognizer", "--store", store, "--interface", INTERFACE, *options)


def _start(host: Host, port: int, kind: str, *options: object) -> Service:
    secured = ("--tls-cert", host.disk / "cert.pem", "--tls-key", host.disk / "key.pem")
    port_file = host.disk / f"{kind}-{port}.port"
    port_file.unlink(missing_ok=True)
    listening = ("--host", host.address, "--port", port, "--port-file", port_file)
    program = host.start(*("serve", kind, *options, *listening, *secured), "--token-file", host.disk / "token")
    until(lambda: port_file.exists() or not program.alive, f"the {kind} on {host.name} is ready", seconds=120)
    assert program.alive, program.output
    return Service(host=host, program=program, port=port)


def copy_to(source: Path, *hosts: Host) -> None:
    """Carry a file or folder to the disks of hosts."""
    for host in hosts:
        if source.is_dir():
            shutil.copytree(source, host.disk / source.name)
        else:
            shutil.copy(source, host.disk / source.name)
