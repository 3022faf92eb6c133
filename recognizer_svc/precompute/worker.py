"""The process of a precompute job, started by the service as

python -P -m recognizer_svc.precompute.worker --job-dir STORE/jobs/JOB --data-root DIR --backbone slowfast=FILE

Exit code 143 after SIGTERM or SIGINT, once the shards that were begun are done.
"""

import argparse
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from cache.backbones.choice import BackboneChoice, parse_choice
from cache.feature_store import FeatureSet
from cache.precompute import PrecomputeOptions, precompute
from cache.store import Store
from recognizer_svc.precompute.request import FeatureRequest
from recognizer_svc.runs.events import EventWriter
from recognizer_svc.runs.run_dir import RunDir
from stal_data.data_root import dataset_below
from stal_data.owner import end_with_owner

STOPPED = 128 + signal.SIGTERM
_EVERY_S = 1.0
_UNCHANGED_EVERY_S = 10.0  # a sign of life while others compute the last shards


class _StoppedError(Exception):
    """The job was to stop before any shard was begun."""


class _Log:
    def __init__(self, events: EventWriter, stop: threading.Event) -> None:
        self._events, self._stop, self._lock = events, stop, threading.Lock()
        self._phase, self._started_s, self._written_s, self._skipped, self._done = "", 0.0, 0.0, 0, 0

    def progress(self, phase: str, done: int, total: int) -> None:
        """One event at the begin and the end of a phase, and now and then between."""
        if phase == "check" and self._stop.is_set():
            raise _StoppedError
        with self._lock:
            now = time.monotonic()
            if phase != self._phase:
                self._phase, self._started_s, self._skipped = phase, now, done if phase == "extract" else 0
            else:
                wait_s = _UNCHANGED_EVERY_S if done == self._done else 0.0 if done == total else _EVERY_S
                if now - self._written_s < wait_s:
                    return
            self._written_s, self._done = now, done
            rate = (done - self._skipped) / max(now - self._started_s, 1e-9)
            self._events.write(
                "precompute",
                phase=phase,
                rows_done=done,
                rows_total=total,
                rows_per_s=rate,
                rows_skipped=self._skipped,
            )

    def others(self, rows: int) -> None:
        """So many more rows are done, but not by this job."""
        with self._lock:
            self._skipped += rows

    def note(self, text: str) -> None:
        with self._lock:
            self._events.write("log", message=text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code."""
    parser = argparse.ArgumentParser(prog="recognizer_svc.precompute.worker", description="A precompute job.")
    parser.add_argument("--job-dir", type=Path, required=True, help="folder of the job: STORE/jobs/JOB")
    parser.add_argument("--data-root", type=Path, required=True, help="folder below which the data set lies")
    parser.add_argument("--backbone", action="append", default=[], metavar="KIND[:SIZE][=WEIGHTS]")
    parser.add_argument("--allow-download", action="store_true")
    options = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    end_with_owner()
    job = RunDir(options.job_dir.absolute())
    started_s = time.monotonic()
    with EventWriter(job.events) as events:
        try:
            choices = [parse_choice(text, options.allow_download) for text in options.backbone]
            sets = _compute(job, choices, options.data_root, _Log(events, stop), stop)
        except _StoppedError:
            return STOPPED
        except Exception as error:  # noqa: BLE001  # whatever it is, the event tells it
            traceback.print_exc()
            events.write("error", rank=0, message=str(error) or repr(error))
            return 1
        if not all(features.done.all() for features in sets):
            return STOPPED
        events.write("done", wall_s=time.monotonic() - started_s, sets=list(map(_filled, sets)))
    return 0


def _compute(
    job: RunDir, choices: list[BackboneChoice], data_root: Path, log: _Log, stop: threading.Event
) -> list[FeatureSet]:
    wanted = FeatureRequest.read(job.request)
    kept = wanted.kept([choice.kind for choice in choices])
    options = PrecomputeOptions(
        backbones=[choice.load(kept[choice.kind]) for choice in choices],
        views=cast(Any, wanted.views),
        dtype=cast(Any, wanted.dtype),
        autocast=cast(Any, wanted.autocast),
        compiled=wanted.compiled,
        batch_size=wanted.batch_size,
        rows_per_shard=wanted.rows_per_shard,
    )
    split = dataset_below(data_root, wanted.dataset).split(wanted.split)
    store = Store.open(job.store_root)
    return precompute(
        split,
        store,
        options,
        progress=log.progress,
        note=log.note,
        must_stop=stop.is_set,
        wait=True,
        others=log.others,
    )


def _filled(features: FeatureSet) -> dict[str, object]:
    return {
        "name": f"{features.dataset}/{features.split}/{features.id}",
        "view": features.spec.view,
        "rows": int(features.done.sum()),
        "rows_total": len(features.key_frames),
    }


if __name__ == "__main__":
    sys.exit(main())
