"""Several hosts on one machine: each with network, process numbers, host name and disk of its own, on one switch.

Linux namespaces give them that, veth pairs and a bridge connect them. Nothing outlives the tests: the first process
of each host reads a pipe of this process, and with it all processes, interfaces and mounts of the host go.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
SUBNET = "10.213.7"
INTERFACE = "eth0"
TOOLS = ("ip", "tc", "unshare", "nsenter", "mount", "bash", "openssl")
_LISTEN = "0A"

# Arguments: name, folder of all disks, an empty folder, hosts file. Only the own disk stays to be seen.
_BOOT = """
set -e
hostname "$1"
mount --bind "$2/$1" "$3"
mount -t tmpfs tmpfs "$2"
mkdir "$2/$1"
mount --move "$3" "$2/$1"
mount --bind "$4" /etc/hosts
# Else the kernel may take a port of a service for an outgoing connection.
echo 9000,29400-29401,50051-50063 > /proc/sys/net/ipv4/ip_local_reserved_ports
ip link set lo up
echo ready
read -r _ || true
"""
_SWITCH = """
set -e
ip link add name switch type bridge
ip link set switch up
echo ready
read -r _ || true
"""
_OWN = ("--mount", "--uts", "--net", "--pid")


def what_is_missing() -> str | None:
    """Why hosts cannot be made here; None where they can."""
    if sys.platform != "linux":
        return "network namespaces are a thing of Linux"
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} missing (Debian: apt-get install iproute2 util-linux openssl)"
    probe = ["unshare", *_OWN, "--fork", "--mount-proc", "bash", "-c", "ip link add name probe type bridge"]
    made = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"no right to make namespaces and bridges here: {made.stderr.strip()}" if made.returncode else None


def until(condition: Callable[[], object], what: str, *, seconds: float = 60) -> None:
    """Wait for a condition; an error says `what` did not come in time. what: may be a text made at that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str
    seconds: float


class Program:
    """A process on a host, with its output in files."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._out, self._err = folder / "stdout", folder / "stderr"
        self._started = time.monotonic()
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._popen = subprocess.Popen(
                command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True
            )

    @property
    def stdout(self) -> str:
        return self._out.read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return self._err.read_text(errors="replace")

    @property
    def output(self) -> str:
        return f"{self.stdout}\n{self.stderr}"

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def send(self, number: int) -> None:
        """Signal the process itself, which is the child of the command that entered the host."""
        entered = psutil.Process(self._popen.pid)
        until(lambda: entered.children() or not self.alive, "the process starts", seconds=20)
        for child in entered.children():
            child.send_signal(number)
        if number == signal.SIGKILL:
            entered.send_signal(signal.SIGCONT)  # it stops when its child is stopped

    def until_said(self, text: str, *, seconds: float = 60) -> None:
        """Wait until the output contains the text."""

        def said() -> bool:
            alive = self.alive
            found = text in self.output
            assert found or alive, f"ended without saying '{text}':\n{self.output}"
            return found

        until(said, f"'{text}' in\n{self.output[-3000:]}", seconds=seconds)

    def wait(self, *, seconds: float = 120) -> Finished:
        try:
            code = self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"runs on after {seconds:g} s:\n{self.output[-3000:]}") from None
        passed = time.monotonic() - self._started
        return Finished(returncode=code, stdout=self.stdout, stderr=self.stderr, seconds=passed)


class Host:
    """One machine. Its disk has the same path inside and outside; other hosts' disks are not seen inside."""

    def __init__(self, name: str, address: str, network: "Network") -> None:
        self.name, self.address, self._network = name, address, network
        self.disk = network.root / "disks" / name
        self._programs: list[Program] = []
        for folder in (self.disk / "home", self.disk / "tmp", network.root / "gates" / name):
            folder.mkdir(parents=True)
        self.environment = os.environ | {
            "HOME": str(self.disk / "home"),
            "TMPDIR": str(self.disk / "tmp"),
            "XDG_CACHE_HOME": str(self.disk / "home" / ".cache"),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            **network.environment,
        }

    def boot(self) -> None:
        """Start the machine; its disk is as it was."""
        network = self._network
        words = [self.name, self.disk.parent, network.root / "gates" / self.name, network.names_file]
        self._anchor = subprocess.Popen(
            ["unshare", *_OWN, "--fork", "--kill-child", "--mount-proc", "bash", "-c", _BOOT, "boot", *map(str, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._anchor.stdout is not None
        assert self._anchor.stdout.readline() == b"ready\n", self._anchor.communicate()
        (first,) = psutil.Process(self._anchor.pid).children()
        self.pid = first.pid
        network.plug(self)

    def die(self) -> None:
        """Cut the power: every process of the machine gets SIGKILL at once."""
        psutil.Process(self.pid).kill()
        self._anchor.communicate()
        for program in self._programs:
            program.wait(seconds=20)

    def cut(self) -> None:
        """Pull the cable."""
        self._network.switch("ip", "link", "set", self.name, "down")

    def restore(self) -> None:
        self._network.switch("ip", "link", "set", self.name, "up")

    def limit_rate(self, rate: str | None) -> None:
        """Let the machine send so much at most, as tc writes it; None is all."""
        if rate is None:
            enter(self.pid, "tc", "qdisc", "del", "dev", INTERFACE, "root")
        else:
            shape = ("rate", rate, "burst", "16kb", "latency", "400ms")
            enter(self.pid, "tc", "qdisc", "replace", "dev", INTERFACE, "root", "tbf", *shape)

    def start(self, *words: object, **environment: str) -> Program:
        """Start a command of this project; the words are those after `stal-cli`."""
        return self.start_program(sys.executable, "-m", "cli.main", *words, **environment)

    def start_program(self, *command: object, **environment: str) -> Program:
        enter_host = ["nsenter", "--target", str(self.pid), *_OWN]
        folder = self.disk / "logs" / f"{len(self._programs):03}"
        program = Program([*enter_host, *map(str, command)], folder, self.environment | environment)
        self._programs.append(program)
        return program

    def run(self, *words: object, seconds: float = 120, fails: bool = False, **environment: str) -> Finished:
        """Run a command of this project to its end, which must be as expected."""
        finished = self.start(*words, **environment).wait(seconds=seconds)
        assert (finished.returncode != 0) == fails, f"{self.name}: {words}: {finished}"
        return finished

    def listens(self, port: int) -> bool:
        sockets = [line.split() for line in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]]
        return any(state == _LISTEN and int(local.split(":")[1], 16) == port for _, local, _, state, *_ in sockets)

    def received_bytes(self) -> int:
        """By the network interface, since the machine started."""
        return int(_interfaces(self.pid)[INTERFACE].split()[0])

    def sent_bytes(self) -> int:
        """As `received_bytes`."""
        return int(_interfaces(self.pid)[INTERFACE].split()[8])

    def processes(self, *words: str) -> list[psutil.Process]:
        """The machine's processes whose command lines contain all the words, oldest first."""
        mine = Path(f"/proc/{self.pid}/ns/pid").readlink()
        found = []
        for process in psutil.process_iter():
            try:
                inside = Path(f"/proc/{process.pid}/ns/pid").readlink() == mine
                line = " ".join(process.cmdline()) if inside else ""
            except (OSError, psutil.Error):
                continue
            if line and all(word in line for word in words):
                found.append(process)
        return sorted(found, key=lambda process: process.create_time())


class Network:
    """Hosts with the given names on one switch, booted and able to reach each other by name."""

    def __init__(self, root: Path, names: Sequence[str], environment: Mapping[str, str]) -> None:
        self.root, self.environment = root, environment
        addresses = {name: f"{SUBNET}.{number}" for number, name in enumerate(names, start=1)}
        self.names_file = root / "hosts"
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
        self.names_file.write_text("\n".join(lines) + "\n")
        self._switch = subprocess.Popen(
            ["unshare", "--net", "bash", "-c", _SWITCH], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._switch.stdout is not None
        assert self._switch.stdout.readline() == b"ready\n"
        self.hosts = {name: Host(name, address, self) for name, address in addresses.items()}
        for host in self.hosts.values():
            host.boot()

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def plug(self, host: Host) -> None:
        """Connect a host that has just booted with the switch."""
        # The kernel removes the port of a machine that died a moment later.
        until(lambda: host.name not in _interfaces(self._switch.pid), f"the old port of {host.name} goes")
        ends = ("netns", str(host.pid), "type", "veth", "peer", "name", host.name, "netns", str(self._switch.pid))
        _run("ip", "link", "add", INTERFACE, *ends)
        self.switch("ip", "link", "set", host.name, "master", "switch", "up")
        enter(host.pid, "ip", "address", "add", f"{host.address}/24", "dev", INTERFACE)
        enter(host.pid, "ip", "link", "set", INTERFACE, "up")

    def switch(self, *command: str) -> None:
        """Run a command where the switch is."""
        enter(self._switch.pid, *command)

    def close(self) -> None:
        for host in self.hosts.values():
            host.die()
        self._switch.communicate()


def enter(pid: int, *command: str) -> None:
    """Run a command in the network of a process."""
    _run("nsenter", "--target", str(pid), "--net", *command)


def _interfaces(pid: int) -> dict[str, str]:
    """Network interfaces as a process sees them, with their counters."""
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    return {name.strip(): counters for name, _, counters in (line.partition(":") for line in lines)}


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
