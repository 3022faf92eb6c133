"""A job of one process as a thread of this one: nothing to start, nothing that could outlive it."""

import threading
import traceback
from contextlib import suppress
from pathlib import Path

from recognizer_svc.runs.record import Launch
from recognizer_svc.runs.run_dir import JobFiles


class TrainingThread:
    """For whoever watches over it like a launcher's process, but that it cannot be killed."""

    def __init__(self, files: JobFiles, launch: Launch, data_root: Path | None) -> None:
        """Imports torch and begins to train. data_root: folder below which the recipe may name a data set."""
        from recognizer_svc.training.loop import StopSignal

        self._files, self._launch, self._data_root = files, launch, data_root
        self._stop = StopSignal()
        self._failed = False
        # Not waited for at the end of a process that leaves in a hurry: the last checkpoint stands.
        self._thread = threading.Thread(target=self._train, name="training", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let it end after this step, with a checkpoint."""
        self._stop.requested = True

    def poll(self) -> int | None:
        """As an exit code; None while it trains."""
        return None if self._thread.is_alive() else int(self._failed)

    def join(self, timeout_s: float | None = None) -> None:
        """Return when it has ended, or after the timeout."""
        self._thread.join(timeout_s)

    def wait(self) -> int:
        self.join()
        return int(self._failed)

    def _train(self) -> None:
        from recognizer_svc.training.distributed import Ranks, device_of
        from recognizer_svc.training.run import train_run

        try:
            ranks = Ranks(device=device_of(self._launch.backend, 0))
            train_run(self._files.run, ranks, self._stop, self._data_root)
        except BaseException:  # noqa: BLE001  # whoever watches tells it
            self._failed = True
            with suppress(OSError), self._files.log.open("a", encoding="utf-8") as log:
                traceback.print_exc(file=log)
