"""A run as it stands between two steps: opened from its recipe or its latest checkpoint, and saved as one."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from cache.backbones import backbone_of
from cache.exact_float32 import exact_float32
from cache.store import Store
from recognizer_svc.heads import build_head
from recognizer_svc.heads.batch_norm import share_statistics
from recognizer_svc.runs.record import refuse_imported
from recognizer_svc.runs.run_dir import OLD_SUFFIX, SUFFIX, RunDir
from recognizer_svc.runs.store import RunStore
from recognizer_svc.training.checkpoint import Checkpoint, Progress, load_checkpoint, save_checkpoint
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.initial_head import load_initial_head
from recognizer_svc.training.inputs import RunInputs, open_inputs
from recognizer_svc.training.joint.model import JointModel
from recognizer_svc.training.log import RunLog
from recognizer_svc.training.loop import StopSignal, Trainer
from recognizer_svc.training.provenance import check_same_proposals
from recognizer_svc.training.recipe import load_recipe
from recognizer_svc.training.repeats import clips_per_epoch
from recognizer_svc.training.run_checks import check_one_recipe, check_same_run
from recognizer_svc.training.schedule import build_optimizer
from recognizer_svc.training.seeds import seed_of
from recognizer_svc.training.weight_average import WeightAverage
from stal_data.errors import InputError, StalError


class RunState:
    """Inputs, head, optimizer and progress of a run; every rank makes one."""

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

    def _restore(self, checkpoint: Checkpoint) -> None:
        refuse_imported(self.run_dir)
        check_same_run(checkpoint, self.recipe, self.inputs)
        check_same_proposals(self.run_dir, self.inputs)
        self.head.load_state_dict(checkpoint.head_state)
        if self.inputs.joint is not None and checkpoint.backbone_state is not None:
            self.inputs.joint.backbone.model.load_state_dict(checkpoint.backbone_state)
        self.trainer.optimizer.load_state_dict(checkpoint.optimizer_state)
        self.progress = checkpoint.progress

    @property
    def steps_per_epoch(self) -> int:
        return -(-clips_per_epoch(self.inputs.repeats_K) // self.recipe.training.batch_clips)

    @property
    def finished(self) -> bool:
        return self.progress.epochs_done >= self.recipe.training.epochs or self._stopped_early

    @property
    def _stopped_early(self) -> bool:
        done, patience = self.progress, self.recipe.validation.stop_after_epochs
        if patience is None or done.validation_map is None or done.best is None or done.steps_done:
            return False
        return done.epochs_done - done.best.epoch >= patience

    def _step_of_run(self, epochs_done: int, step: int) -> int:
        return epochs_done * self.steps_per_epoch + step

    def _averaged(self) -> AbstractContextManager[dict[str, Tensor] | None]:
        """Put the averaged weights into the head, where there are some; gives the others by name."""
        return nullcontext() if self.average is None else self.average.applied()

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
