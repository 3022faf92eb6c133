"""Run every instruction of a Dockerfile in a clean root where there is no Docker engine: chroot and a copy of a base.

    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm base
    python scripts/run_dockerfile.py deploy/recognizer.Dockerfile --base base --work work --serve-s 60

Needs root and Linux. The base stands in for `python:3.11-slim-bookworm`: Debian 12 with Debian's Python 3.11. Layers,
image limits and the network of containers are not part of it. At the end ENTRYPOINT with CMD is started as USER; with
--serve-s it must say that it is ready within that time, and end with exit code 0 after SIGTERM.
"""

# ruff: noqa: S607  # the system's own tools, found as a shell does

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

CONTEXT = Path(__file__).parent.parent
INSTRUCTIONS = ("FROM", "ARG", "SHELL", "RUN", "ENV", "WORKDIR", "COPY", "USER", "EXPOSE", "ENTRYPOINT", "CMD")
# Package indexes and certificates of this machine reach the build as with `docker build --build-arg`.
PASSED_ON = ("PIP_", "SSL_CERT", "REQUESTS_CA")


@dataclass(kw_only=True)
class Stage:
    """A root folder and what the instructions so far have set."""

    root: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"})
    args: dict[str, str] = field(default_factory=dict)
    shell: list[str] = field(default_factory=lambda: ["/bin/sh", "-c"])
    folder: str = "/"
    user: str = "root"
    entrypoint: list[str] = field(default_factory=list)
    cmd: list[str] = field(default_factory=list)

    def path(self, inside: str) -> Path:
        return self.root / os.path.normpath(os.path.join("/", self.folder, inside)).lstrip("/")  # noqa: PTH118

    def command(self, words: list[str]) -> list[str]:
        enter = f'cd {shlex.quote(self.folder)} && exec "$@"'
        return ["chroot", f"--userspec={self.user}", str(self.root), "/bin/sh", "-c", enter, "sh", *words]

    def environment(self) -> dict[str, str]:
        passed = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        return passed | self.env | self.args | {"HOME": "/root" if self.user == "root" else "/tmp"}  # noqa: S108


def instructions(dockerfile: Path) -> Iterator[tuple[str, str]]:
    """(name, rest) of each instruction, continued lines joined, comments left out."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            if name not in INSTRUCTIONS:
                sys.exit(f"{dockerfile}: {name} is not known here; known are {', '.join(INSTRUCTIONS)}.")
            yield name, rest.strip()


def run_instruction(name: str, rest: str, stage: Stage, stages: dict[str, Stage]) -> None:
    match name:
        case "ARG":
            key, _, value = rest.partition("=")
            stage.args[key] = value.strip('"')
        case "ENV":
            for word in shlex.split(rest):
                key, _, value = word.partition("=")
                stage.env[key] = value.replace("$PATH", stage.env["PATH"])
        case "SHELL":
            stage.shell = json.loads(rest)
        case "WORKDIR":
            stage.folder = rest
            stage.path(".").mkdir(parents=True, exist_ok=True)
        case "USER":
            stage.user = rest
        case "ENTRYPOINT":
            stage.entrypoint = json.loads(rest)
        case "CMD":
            stage.cmd = json.loads(rest)
        case "COPY":
            copy(rest.split(), stage, stages)
        case "RUN":
            subprocess.run(stage.command([*stage.shell, rest]), env=stage.environment(), check=True)


def copy(words: list[str], stage: Stage, stages: dict[str, Stage]) -> None:
    """COPY SOURCE TARGET with one source; from the working tree only what git tracks."""
    if words[0].startswith("--from="):
        source, target = words[1:]
        subprocess.run(
            ["cp", "-a", stages[words[0].removeprefix("--from=")].path(source), stage.path(target)], check=True
        )
        return
    source, target = words
    files = subprocess.run(
        ["git", "ls-files", "-z", "--", source], cwd=CONTEXT, capture_output=True, check=True, text=True
    ).stdout.split("\0")
    for file in filter(None, files):
        if (CONTEXT / file).is_file():
            goal = stage.path(target) / file
            goal.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CONTEXT / file, goal)


@contextmanager
def mounted(stage: Stage, binds: list[str]) -> Iterator[None]:
    """/proc, /dev, /dev/shm, the resolver's file and the asked-for folders, for as long as the block runs."""
    with ExitStack() as stack:
        pairs = [("/dev", "/dev"), ("/dev/shm", "/dev/shm"), *((bind, bind) for bind in binds)]  # noqa: S108
        for source, target in [("proc", "/proc"), *pairs]:
            goal = stage.root / target.lstrip("/")
            goal.mkdir(parents=True, exist_ok=True)
            kind = ["-t", "proc"] if source == "proc" else ["--bind"]
            subprocess.run(["mount", *kind, source, str(goal)], check=True)
            stack.callback(subprocess.run, ["umount", "-l", str(goal)], check=True)
        shutil.copy("/etc/resolv.conf", stage.root / "etc/resolv.conf")
        yield


def serve(stage: Stage, seconds: float) -> None:
    """Start the image's command, wait until it says that it is ready, stop it as an engine does."""
    words = [*stage.entrypoint, *stage.cmd]
    print("START", shlex.join(words), "as", stage.user, flush=True)
    process = subprocess.Popen(stage.command(words), env=stage.environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    signal.signal(signal.SIGALRM, lambda *_: process.kill())
    signal.alarm(int(seconds))
    line = process.stdout.readline()
    signal.alarm(0)
    print(f"{line.strip() or 'nothing said'} after {seconds - deadline + time.monotonic():.1f} s", flush=True)
    process.terminate()
    code = process.wait(120)
    if " ready on " not in line or code != 0:
        sys.exit(f"The command said {line!r} and ended with {code}; it must say 'ready on' and end with 0.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("--base", type=Path, required=True, help="root folder that debootstrap made")
    parser.add_argument("--work", type=Path, required=True, help="where the stages' roots are made")
    parser.add_argument("--bind", action="append", default=[], help="folder of this machine that the build sees")
    parser.add_argument(
        "--put", action="append", default=[], metavar="SOURCE:TARGET", help="as a volume, for the start"
    )
    parser.add_argument("--serve-s", type=float, help="the command is a service: ready within so many seconds")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    stages: dict[str, Stage] = {}
    stage: Stage | None = None
    with ExitStack() as mounts:
        for name, rest in instructions(options.dockerfile):
            print(name, rest, flush=True)
            if name == "FROM":
                label = rest.rpartition(" AS ")[2] if " AS " in rest else "final"
                root = Path(tempfile.mkdtemp(prefix=f"{label}-", dir=options.work))
                root.chmod(0o755)
                subprocess.run(["cp", "-a", f"{options.base}/.", root], check=True)
                stage = stages[label] = Stage(root=root)
                mounts.enter_context(mounted(stage, options.bind))
                continue
            assert stage is not None
            run_instruction(name, rest, stage, stages)
        assert stage is not None
        for pair in options.put:
            source, target = pair.split(":")
            stage.path(target).parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", source, stage.path(target)], check=True)
            subprocess.run(["chown", "-R", stage.user, stage.path(target)], check=True)
        if options.serve_s is not None:
            serve(stage, options.serve_s)
        else:
            subprocess.run(stage.command([*stage.entrypoint, *stage.cmd]), env=stage.environment(), check=True)
    print(f"{options.dockerfile}: every instruction ran.")


if __name__ == "__main__":
    main()
