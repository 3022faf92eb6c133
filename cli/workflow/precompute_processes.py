"""Precompute on several devices of this machine: a process for each fills its part of the set."""

import json
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from stal_data.children import python_command, python_environment
from stal_data.errors import StalError
from stal_data.owner import owned

if TYPE_CHECKING:
    import torch

    from cache.precompute import Part, Progress


def precompute_in_processes(
    devices: "Sequence[torch.device]",
    words: Sequence[str],
    parts: "Sequence[Part]",
    *,
    decode_threads: int,
    progress: "Progress",
    note: Callable[[str], None],
) -> None:
    """Run `stal-cli WORDS` for each device with its part, and show their progress as one.

    The feature sets exist already, so each process checks the frames of its own part only. When one fails, the others
    go on; the error comes when all have ended.
    """
    processes = [
        subprocess.Popen(
            python_command(
                "cli.main", *words, "--json", f"--device={device}", f"--decode-threads={decode_threads}",
                f"--shard={part.number}/{part.count}",
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=owned(python_environment()),
            start_new_session=True,  # Ctrl-C is for this process alone, which ends the others
        )
        for device, part in zip(devices, parts, strict=True)
    ]  # fmt: skip
    shown, said = _SumOfProgress(progress, len(processes)), set[str]()

    def follow(number: int) -> None:
        for line in processes[number].stdout or ():
            shown.add(number, json.loads(line))

    def relay(number: int) -> None:
        for line in processes[number].stderr or ():
            if line not in said:  # what all have to say is said once
                said.add(line)
                note(f"{devices[number]}: {line.rstrip()}")

    with ThreadPoolExecutor(2 * len(processes)) as pool:
        try:
            readers = [pool.submit(read, number) for number in range(len(processes)) for read in (follow, relay)]
            for reader in readers:
                reader.result()
            codes = [process.wait() for process in processes]
        finally:
            for process in processes:
                process.kill()  # what is done is safe
                process.wait()
    if failed := [f"{device} (exit code {code})" for device, code in zip(devices, codes, strict=True) if code]:
        raise StalError(
            f"The processes of these devices failed: {', '.join(failed)}; see above for the reasons. What was computed "
            "is kept: the same command goes on from there."
        )


class _SumOfProgress:
    """Adds up the key frames of all processes, once each has said how many it has."""

    def __init__(self, progress: "Progress", count: int) -> None:
        self._progress, self._count, self._lock = progress, count, threading.Lock()
        self._latest: dict[int, tuple[int, int]] = {}

    def add(self, number: int, event: dict[str, object]) -> None:
        if event.get("phase") != "extract":
            return
        with self._lock:
            self._latest[number] = int(str(event["done"])), int(str(event["total"]))
            if len(self._latest) == self._count:
                done, total = (sum(column) for column in zip(*self._latest.values(), strict=True))
                self._progress("extract", done, total)
