"""The stages of `infer` that score a video on this machine: detect, precompute and predict, all with a store."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cache.backbones.choice import BackboneChoice
from cache.files import locked
from cache.store import Store
from cli.workflow.detect_stage import Detector, detect, private_service
from cli.workflow.feature_stage import as_trained, precompute
from cli.workflow.fingerprints import RUN_PARTS, Unchanged
from cli.workflow.stages import Product, Service, Stages
from recognizer_svc.packed_models.description import PackedModel
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.runs.trained_on import features_trained_on
from stal_data.dataset import Dataset
from stal_data.errors import NotFoundError
from stal_data.labels import LabelMap
from stal_data.own_videos import SPLIT


@dataclass(kw_only=True)
class StoreScoring:
    """With a run of a store. model: installed there as the run `run_id`; None where the run is there.

    files: what must not change meanwhile, besides the videos.
    """

    store: Path
    run_id: str
    model: PackedModel | None
    backbones: Sequence[BackboneChoice]
    detector: Detector
    flip_average: bool
    fuse_confidence: bool
    _service: Service | None = field(init=False, default=None)

    @property
    def files(self) -> tuple[Path, ...]:
        return () if self.detector.weights is None else (self.detector.weights,)

    @property
    def thresholds(self) -> Mapping[int, float]:
        """Scores from which the model's actions count, by label id."""
        return {} if self.model is None else self.model.thresholds

    @property
    def _run(self) -> Path:
        return self.store / "runs" / self.run_id

    def check(self) -> None:
        """Raise where it cannot be done, before anything is written."""
        if self.model is None and not (self._run / "label_map.pbtxt").exists():
            raise NotFoundError(
                f"--run {self.run_id!r}: no such run in {self.store}. `stal-cli runs list --store {self.store}` "
                "lists them."
            )

    def _check_backbones(self) -> None:
        """Raise where the head would refuse the features of these weights."""
        from recognizer_svc.features import check_weights

        if (found := features_trained_on(RunDir(self._run))) is None:
            return
        spec, given = found
        seen = {array.backbone for array in spec.readable if array.name in given}
        for choice in self.backbones:
            if choice.kind in seen:
                check_weights(self.run_id, spec.backbone(choice.kind), choice.load().spec, choice.weights)

    @contextmanager
    def ready(self, output: Path) -> Iterator[LabelMap]:
        """Hold ready what all videos need, a private detector service say; the labels are those of the scores."""
        if self.model is not None:
            from recognizer_svc.packed_models.install import install

            install(self.model, Store.open(self.store, create=True))
        with private_service(self.detector, output) as self._service:
            yield LabelMap.read(self._run / "label_map.pbtxt")

    def score(
        self,
        stages: Stages,
        video: str,  # noqa: ARG002
        *,
        dataset: Path,
        predictions: Path,
        content: Mapping[str, str],
        watched: Unchanged,
    ) -> Path:
        """Write the predictions of a video; return the proposals, if it files them.

        dataset: made of the video alone. content: digests of both. watched: the video and `files`.
        """
        name = Dataset.open(dataset).name
        # Whoever works on the same video at the same time waits here, and then finds that all is done.
        with locked(self.store / "features" / name / SPLIT / ".locks" / "infer.lock"):
            proposals = detect(
                stages,
                self.detector,
                self._service,
                folder=dataset,
                store=self.store,
                dataset=name,
                split=SPLIT,
                inputs=content,
                watched=watched,
            )
            files = [Path(choice.weights) for choice in self.backbones if choice.weights is not None]
            words = [word for choice in self.backbones for word in choice.words()]
            if self.flip_average:
                words += ["--view", "identity", "--view", "hflip"]
            views = precompute(
                stages,
                "precompute",
                *(str(dataset), "--split", SPLIT, "--store", str(self.store), *words),
                *as_trained(RunDir(self._run), [choice.kind for choice in self.backbones]),
                store=self.store,
                dataset=name,
                split=SPLIT,
                inputs={**content, **{str(path): stages.digest(path) for path in files if path.is_file()}},
                check=self._check_backbones,
            )
            made = " ".join(f"--set {features.path.name}" for features in views)
            watched.check(f" Delete the features: stal-cli cache prune {self.store} {made} --dataset {name}")
        made_from = {"run": stages.digest(self._run, RUN_PARTS), "proposals": stages.digest(proposals)}
        for name_of_view, view in zip(("features", "mirrored_features"), views, strict=False):
            made_from[name_of_view] = stages.digest(view.path, view.parts)
        scoring = {"--flip-average": self.flip_average, "--fuse-confidence": self.fuse_confidence}
        stages.run(
            "predict",
            *("predict", "--run", self.run_id, "--dataset", name, "--split", SPLIT),
            *("--boxes", f"proposals:{proposals.stem}", "--feature-set", views[0].path.name),
            *(option for option, chosen in scoring.items() if chosen),
            *("--store", str(self.store), "--output", str(predictions)),
            inputs=made_from,
            products=[Product(predictions)],
            here=True,
        )
        return proposals
