"""One training run in its folder: from the recipe, or from where the latest checkpoint left it, to the last epoch."""

import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from cache.store import Store
from recognizer_svc.batching import epoch_plan, read_ahead
from recognizer_svc.heads.batch_norm import BatchNorm
from recognizer_svc.runs.events import EventWriter
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.runs.store import RunStore
from recognizer_svc.training.checkpoint import Best, Progress
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.evaluate import evaluate
from recognizer_svc.training.log import RunLog
from recognizer_svc.training.loop import StopSignal, Totals, timed
from recognizer_svc.training.provenance import write_provenance
from recognizer_svc.training.repeats import drawn_clips
from recognizer_svc.training.resident import keep_resident
from recognizer_svc.training.run_state import RunState
from recognizer_svc.training.schedule import learning_rate
from recognizer_svc.training.seeds import seed_of
from stal_data.amounts import amount
from stal_data.files import write_atomically
from stal_data.sealed import sealed_text

_FEW_CLIPS = 3
"""Of one process and step; the published training has 3."""


class Run(RunState):
    """Trains until the last epoch or until stopped; every rank makes one."""

    def train(self) -> bool:
        """Go on to the last epoch. Returns False if a stop was requested before; a checkpoint is saved then, too."""
        first_step = self._step_of_run(self.progress.epochs_done, self.progress.steps_done)
        with RunLog(self.run_dir, self.recipe, enabled=self.ranks.rank == 0, first_step=first_step) as log:
            self._announce(log)
            if not self.finished:
                parts = {"training": self.inputs.train, "validation": self.inputs.validation}
                threads, wanted = self.recipe.data.reader_threads, self.recipe.data.resident
                keep_resident(parts, wanted, self.ranks.device, threads=threads, say=log.message)
            while not self.finished:
                if self._epoch(log) and not self.finished:
                    log.message("stopped on request; resume to go on from the checkpoint")
                    break
            else:
                self._end(log)
        if self.ranks.rank == 0:
            self.runs.publish(self.run_dir)
        return self.finished

    def _end(self, log: RunLog) -> None:
        done, best = self.progress, self.progress.best
        if done.epochs_done < self.recipe.training.epochs and best is not None:
            log.message(
                f"ended after {done.epochs_done} of {self.recipe.training.epochs} epochs: the best validation mAP, "
                f"{best.map:.4f}, is that of epoch {best.epoch}, {amount(done.epochs_done - best.epoch, 'epoch')} ago; "
                "to go on, raise validation.stop_after_epochs or set it to null, and resume"
            )
        self._export(log)
        log.done(epochs=done.epochs_done, best_map=None if best is None else best.map)

    def _announce(self, log: RunLog) -> None:
        if self.ranks.rank == 0:
            write_atomically(self.run_dir.label_map, sealed_text(self.inputs.label_map.to_pbtxt()))
            digest = None if self.initial is None else self.initial.digest
            write_provenance(self.run_dir, self.recipe, self.inputs, self.ranks, init_head=digest)
        if (note := self._batch_norm_note()) is not None:
            log.message(note)
        for note in (*self.inputs.notes, *(() if self.initial is None else self.initial.notes)):
            log.message(note)
        done = self.progress
        if done.epochs_done >= self.recipe.training.epochs:
            log.message(
                f"trained for {amount(done.epochs_done, 'epoch')} already; to go on, raise training.epochs and resume"
            )
        elif not self.finished and (done.epochs_done or done.steps_done):
            log.message(f"resumed after {amount(done.epochs_done, 'epoch')} and {amount(done.steps_done, 'step')}")

    def _batch_norm_note(self) -> str | None:
        """Why the statistics of BatchNorm are poor, where a process sees so few clips."""
        training, processes = self.recipe.training, self.ranks.world_size
        clips = training.batch_clips // processes
        has_any = any(isinstance(module, BatchNorm) for module in self.head.modules())
        if processes == 1 or clips >= _FEW_CLIPS or training.batch_norm == "shared" or not has_any:
            return None
        return (
            f"each of the {processes} processes sees {clips} of {training.batch_clips} clips a step, and BatchNorm "
            "takes its statistics from these alone; training.batch_norm=shared takes them from all"
        )

    def _epoch(self, log: RunLog) -> bool:
        """Train what is left of the running epoch; then validate and save. Returns whether a stop was requested."""
        training, epoch = self.recipe.training, self.progress.epochs_done + 1
        drawn = drawn_clips(self.inputs.repeats_K, seed=training.seed, epoch=epoch)
        places = epoch_plan(
            len(drawn),
            training.batch_clips,
            seed=training.seed,
            epoch=epoch,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )
        plan = [drawn[part].tolist() for part in places]
        totals, since_log, stop = self.progress.totals, Totals(), False
        load = partial(self.inputs.train.load, epoch=epoch, pinned=self.ranks.device.type == "cuda")
        batches = timed(read_ahead(load, plan[self.progress.steps_done :], self.recipe.data.reader_threads))
        for step, (batch, waited_s) in enumerate(batches, start=self.progress.steps_done):
            started = time.perf_counter()
            rate = self._learning_rate(epoch, step)
            torch.manual_seed(seed_of(training.seed, "dropout", epoch, step, self.ranks.rank))
            part, stop = self.trainer.step(batch, rate)
            if self.average is not None:
                self.average.update(self._step_of_run(epoch - 1, step))
            part.data_s, part.compute_s = waited_s, time.perf_counter() - started
            totals.add(part)
            since_log.add(part)
            last = step + 1 == len(plan)
            if last or (step + 1) % training.log_every_steps == 0:
                log.step(epoch=epoch, step=step + 1, steps_per_epoch=len(plan), totals=since_log, learning_rate=rate)
                since_log = Totals()
            if stop and not last:
                self.progress = replace(self.progress, steps_done=step + 1, totals=totals)
                self._save(log, "latest")
                return True
        log.epoch(epoch=epoch, totals=totals)
        self._finish_epoch(log, epoch)
        return stop

    def _learning_rate(self, epoch: int, step: int) -> float:
        return learning_rate(
            self.recipe.schedule,
            self.recipe.optimizer.learning_rate,
            step=self._step_of_run(epoch - 1, step),
            steps_per_epoch=self.steps_per_epoch,
            epochs=self.recipe.training.epochs,
        )

    def _finish_epoch(self, log: RunLog, epoch: int) -> None:
        self.ranks.copy_buffers_from_first(self.trainer.head)
        mean_ap = self._validate(log, epoch)
        best = self.progress.best
        improved = mean_ap is not None and (best is None or mean_ap > best.map)
        if mean_ap is not None and improved:
            best = Best(epoch=epoch, map=mean_ap)
        self.progress = Progress(epochs_done=epoch, validation_map=mean_ap, best=best)
        if improved and self.recipe.validation.keep_best:
            self._save(log, "best")
        self._save(log, "latest")

    def _validate(self, log: RunLog, epoch: int) -> float | None:
        due = epoch % self.recipe.validation.every_epochs == 0 or epoch == self.recipe.training.epochs
        if self.inputs.validation is None or not due:
            return None
        started = time.perf_counter()
        threads = self.recipe.data.reader_threads
        with self._averaged():
            found = evaluate(self.trainer.head, self.inputs.validation, self.trainer.loss, self.ranks, threads=threads)
        best = self.progress.best
        log.validation(
            epoch=epoch,
            mean_ap=found.map,
            best=found.map if best is None else max(best.map, found.map),
            loss=found.loss,
            boxes=found.boxes,
            duration_s=time.perf_counter() - started,
        )
        each = [(name or self.recipe.data.dataset, value) for name, value in found.maps.items() if value is not None]
        if each:
            log.message("validation mAP of each data set: " + ", ".join(f"{name} {value:.4f}" for name, value in each))
        return found.map


def train_run(run_dir: RunDir, ranks: Ranks, stop: StopSignal | None = None, data_root: Path | None = None) -> bool:
    """Train the run in its folder; False if it was stopped. What ends rank 0 is an event, for those who watch.

    data_root: the folder below which joint training may read frames.
    """
    runs = RunStore.of(Store.open(run_dir.store_root))
    try:
        with runs.sole_training(run_dir) if ranks.rank == 0 else nullcontext():
            return Run(run_dir, ranks, stop, data_root).train()
    except Exception as error:
        if ranks.rank == 0:
            with EventWriter(run_dir.events) as events:
                events.write("error", rank=0, message=f"{error}" or type(error).__name__)
        raise
