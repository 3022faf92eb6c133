"""One training run in its folder: from the recipe, or from where the latest checkpoint left it, to the last epoch."""

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cache.backbones import backbone_of
from cache.exact_float32 import exact_float32
from cache.store import Store
from recognizer_svc.batching import epoch_plan, read_ahead
from recognizer_svc.heads import build_head
from recognizer_svc.heads.batch_norm import BatchNorm, share_statistics
from recognizer_svc.runs.events import EventWriter
from recognizer_svc.runs.record import refuse_imported
from recognizer_svc.runs.run_dir import OLD_SUFFIX, SUFFIX, RunDir
from recognizer_svc.runs.store import RunStore
from recognizer_svc.training.checkpoint import Best, Checkpoint, Progress, load_checkpoint, save_checkpoint
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.evaluate import evaluate
from recognizer_svc.training.initial_head import load_initial_head
from recognizer_svc.training.inputs import RunInputs, open_inputs
from recognizer_svc.training.joint.model import JointModel
from recognizer_svc.training.log import RunLog
from recognizer_svc.training.loop import StopSignal, Totals, Trainer, timed
from recognizer_svc.training.provenance import check_same_proposals, write_provenance
from recognizer_svc.training.recipe import Recipe, load_recipe, parse_recipe
from recognizer_svc.training.repeats import clips_per_epoch, drawn_clips
from recognizer_svc.training.schedule import build_optimizer, learning_rate
from recognizer_svc.training.seeds import seed_of
from recognizer_svc.training.weight_average import WeightAverage
from stal_data.errors import ConflictError, InputError, StalError
from stal_data.files import write_atomically
from stal_data.sealed import sealed_text

_FEW_CLIPS = 3
"""Of one process and step; the published training has 3."""


class Run:
    """Trains until the last epoch or until stopped; every rank makes one."""

    def __init__(
        self, run_dir: RunDir, ranks: Ranks, stop: StopSignal | None = None, data_root: Path | None = None
    ) -> None:
        exact_float32()
        self.run_dir = run_dir
        self.ranks = ranks
        self.recipe = load_recipe(run_dir.recipe)
        if self.recipe.training.batch_clips % ranks.world_size:
            raise InputError(
                f"training.batch_clips is {self.recipe.training.batch_clips}, which {ranks.world_size} processes "
                "cannot share evenly; choose a multiple of the number of processes."
            )
        check_one_recipe(self.recipe, ranks)
        store = Store.open(run_dir.store_root)
        self.runs = RunStore.of(store)
        self.inputs: RunInputs = open_inputs(self.recipe, store, data_root)
        self.progress = Progress()
        torch.manual_seed(seed_of(self.recipe.training.seed, "weights"))
        self.head = build_head(self.recipe.head, self.inputs.shapes, self.inputs.label_map.num_classes)
        # Rank 0's: another machine may see an older file, or none where the store is in a bucket.
        latest = run_dir.checkpoint("latest")
        saved = ranks.from_first(latest.read_bytes() if ranks.rank == 0 and latest.exists() else None)
        self.initial = None if saved is not None else load_initial_head(self.recipe, store, self.inputs)
        if self.initial is not None:
            self.head.load_state_dict(self.initial.state, strict=False)  # the classifier may be left out
        joint = self.inputs.joint
        trained = self.head if joint is None else JointModel(joint.backbone, self.head)
        trained.to(ranks.device)
        if self.recipe.training.batch_norm == "shared" and ranks.world_size > 1:
            share_statistics(trained)
        self.trainer = Trainer(
            head=trained,
            model=ranks.wrap(trained),
            optimizer=build_optimizer(self.recipe.optimizer, trained.parameters()),
            loss=self.recipe.loss.fitted(*self.inputs.actors_per_epoch()),
            ranks=ranks,
            stop=stop or StopSignal(),
            clip_gradient_norm=self.recipe.training.clip_gradient_norm,
            autocast=self.recipe.training.autocast == "bf16",
        )
        checkpoint = None if saved is None else load_checkpoint(latest, saved)
        if checkpoint is not None:
            self._restore(checkpoint)
        decay, unaveraged = self.recipe.training.ema_decay, None if checkpoint is None else checkpoint.unaveraged
        self.average = None if decay is None else WeightAverage(trained, decay, unaveraged)

    @property
    def steps_per_epoch(self) -> int:
        return -(-clips_per_epoch(self.inputs.repeats_K) // self.recipe.training.batch_clips)

    @property
    def finished(self) -> bool:
        return self.progress.epochs_done >= self.recipe.training.epochs or self._stopped_early

    @property
    def _stopped_early(self) -> bool:
        """Whether the latest validation is so long after the best one that the recipe ends the run."""
        done, patience = self.progress, self.recipe.validation.stop_after_epochs
        if patience is None or done.validation_map is None or done.best is None or done.steps_done:
            return False
        return done.epochs_done - done.best.epoch >= patience

    def train(self) -> bool:
        """Go on to the last epoch. Returns False if a stop was requested before; a checkpoint is saved then, too."""
        first_step = self._step_of_run(self.progress.epochs_done, self.progress.steps_done)
        with RunLog(self.run_dir, self.recipe, enabled=self.ranks.rank == 0, first_step=first_step) as log:
            self._announce(log)
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
                f"{best.map:.4f}, is that of epoch {best.epoch}, {done.epochs_done - best.epoch} epochs ago; to go on, "
                "raise validation.stop_after_epochs or set it to null, and resume"
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
                f"all {done.epochs_done} epochs are trained already; to go on, raise training.epochs and resume"
            )
        elif not self.finished and (done.epochs_done or done.steps_done):
            log.message(f"resumed after {done.epochs_done} epochs and {done.steps_done} steps")

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

    def _step_of_run(self, epochs_done: int, step: int) -> int:
        return epochs_done * self.steps_per_epoch + step

    def _averaged(self) -> AbstractContextManager[dict[str, Tensor] | None]:
        """Put the averaged weights into the head, where there are some; gives the others by name."""
        return nullcontext() if self.average is None else self.average.applied()

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
        return found.map

    def _save(self, log: RunLog, name: str) -> None:
        if self.ranks.rank:
            return
        spec, joint = self.inputs.feature_sets["train"].spec, self.inputs.joint
        path = self.run_dir.checkpoint(name).with_suffix(SUFFIX)
        with self._averaged() as unaveraged:
            checkpoint = Checkpoint(
                recipe=self.recipe,
                label_map=self.inputs.label_map,
                feature_spec=spec if joint is None else joint.trained_spec(spec),
                shapes=self.inputs.shapes,
                head_state=self.head.state_dict(),
                backbone_state=None if joint is None else joint.backbone.model.state_dict(),
                unaveraged=unaveraged,
                optimizer_state=self.trainer.optimizer.state_dict(),
                progress=self.progress,
                events=log.saved_events(),
            )
            save_checkpoint(path, checkpoint)
        path.with_suffix(OLD_SUFFIX).unlink(missing_ok=True)
        log.checkpoint(epoch=self.progress.epochs_done, step=self.progress.steps_done, name=path.name)
        if name == "latest":
            try:
                self.runs.publish(self.run_dir)
            except StalError as error:
                log.message(f"the checkpoint is here, but not in the bucket yet; tried again at the next one: {error}")

    def _export(self, log: RunLog) -> None:
        """Write the trained backbone as weights files, for precompute."""
        if self.inputs.joint is None or self.ranks.rank:
            return
        from recognizer_svc.training.joint.export import (
            export_backbone,  # after the check: it needs the extra `precompute`
        )

        kind = self.recipe.training.backbone
        for path in export_backbone(self.run_dir, self.inputs.joint.backbone.spec):
            log.message(
                f"{backbone_of(kind).title} is in {path}; precompute with --backbone {kind}={path} before predicting"
            )

    def _restore(self, checkpoint: Checkpoint) -> None:
        refuse_imported(self.run_dir)
        check_same_run(checkpoint, self.recipe, self.inputs)
        check_same_proposals(self.run_dir, self.inputs)
        self.head.load_state_dict(checkpoint.head_state)
        if self.inputs.joint is not None and checkpoint.backbone_state is not None:
            self.inputs.joint.backbone.model.load_state_dict(checkpoint.backbone_state)
        self.trainer.optimizer.load_state_dict(checkpoint.optimizer_state)
        self.progress = checkpoint.progress


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


def check_one_recipe(recipe: Recipe, ranks: Ranks) -> None:
    """Refuse to train where the machines of a job were given different recipes."""
    first = ranks.from_first(recipe.to_yaml().encode())
    if first is not None and first != recipe.to_yaml().encode():
        before, now = parse_recipe(first.decode()).model_dump(mode="json"), recipe.model_dump(mode="json")
        changed = ", ".join(sorted(section for section in before if before[section] != now[section]))
        raise ConflictError(
            f"The machines of this job were given different recipes, in {changed}; start it with the same command on "
            "each, apart from --node-rank."
        )


def check_same_run(checkpoint: Checkpoint, recipe: Recipe, inputs: RunInputs) -> None:
    """Refuse to go on with another recipe or other inputs. Only the length and what is logged or kept may change."""
    before, now = checkpoint.recipe.fixed_settings(), recipe.fixed_settings()
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if changed:
        listed = ", ".join(f"{name}: {before.get(name)} / {now.get(name)}" for name in changed)
        raise ConflictError(
            f"The run has a checkpoint of another recipe (checkpoint / now): {listed}. "
            "Start a new run, or resume with the old values."
        )
    spec = inputs.feature_sets["train"].spec
    if inputs.joint is not None:
        # Its weights have changed in training; the rest must be the same.
        spec = inputs.joint.spec_with(spec, checkpoint.feature_spec.backbone(recipe.training.backbone).weights)
    different = checkpoint.feature_spec.diff(spec)
    if different:
        raise ConflictError(
            f"The checkpoint was trained on features of another spec (checkpoint / now): {', '.join(different)}."
        )
    if checkpoint.label_map.digest != inputs.label_map.digest:
        raise ConflictError("The checkpoint was trained with another label map; start a new run.")
