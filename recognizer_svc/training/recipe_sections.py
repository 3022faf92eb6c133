"""The sections of a recipe, but for the head's and the loss', which are those of their kinds."""

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from cache.backbones import backbone_of
from cache.statistics import StatisticName, statistic_of
from recognizer_svc.neighbours import MAX_BANK_S, MAX_NEIGHBOURS
from stal_data.names import MAX_NAME_LENGTH
from stal_data.sections import Section

Layout = Literal["key_frames", "rows"]
"""What a clip shows: all people of a key frame, or one annotation row, as published: its person and action alone."""
TrainingBoxes = Literal["ground_truth", "detected", "both"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=MAX_NAME_LENGTH)]
_MAX_COUNT = 1_000_000
_MAX_PATH = 1000
_MAX_STEP_MS = 3_600_000


def _relative(value: str) -> str:
    path = PurePosixPath(value)
    if len(value) > _MAX_PATH:
        raise ValueError(f"has {len(value)} characters, but may have {_MAX_PATH} at most")
    if not value or not value.isprintable() or "\\" in value or path.is_absolute() or ".." in path.parts:
        raise ValueError("must be a path relative to the folder that the operator chose, without '..'")
    return value


RelativePath = Annotated[str, AfterValidator(_relative)]


def _statistic(name: str) -> StatisticName:
    statistic_of(name)
    return name


_Statistic = Annotated[StatisticName, AfterValidator(_statistic), Field(max_length=MAX_NAME_LENGTH)]


def use_of(kind: str, dataset: str) -> str:
    """Return what a run calls its thing of a kind and a key of `Data.datasets`: train, or train.OTHER."""
    return f"{kind}.{dataset}" if dataset else kind


class Data(Section):
    dataset: Name
    additional: Annotated[tuple[Name, ...], Field(max_length=15)] = ()
    """Data sets that are trained on together with it, on the split of the same name."""
    train_split: Name = "train"
    layout: Layout = "key_frames"
    boxes: TrainingBoxes = "ground_truth"
    """Whose boxes are trained on: the annotated people's, a detector's, or each of them in clips of their own."""
    proposals: Name | None = None
    """Name of the detector's boxes of the training split; needed only where the store holds several."""
    match_iou: float = Field(default=0.5, gt=0, le=1)
    """Least IoU at which a detected box has the actions of the annotated person that it overlaps most."""
    streams: Annotated[tuple[Name, ...], Field(max_length=16)] | None = None
    """Backbones whose features the head sees; None = all that the feature set holds."""
    statistics: Annotated[tuple[_Statistic, ...], Field(min_length=1, max_length=8)] | None = None
    """Of the maps that the head sees, where the feature set holds them; None = what the head names."""
    neighbours: int = Field(default=0, ge=0, le=MAX_NEIGHBOURS)
    """Key frames before a clip's, and as many after it, in which the head sees each person, too; 0 = none."""
    neighbour_ms: int = Field(default=1000, ge=1, le=_MAX_STEP_MS)
    """From one neighbouring key frame to the next, in milliseconds; see `Neighbourhood.around`."""
    bank_s: int = Field(default=0, ge=0, le=MAX_BANK_S)
    """Seconds before and after a clip's key frame whose people are its feature bank; 0 = no bank."""
    feature_set: Annotated[str, Field(max_length=MAX_NAME_LENGTH)] | None = None
    """Id of the identity set; needed only where the store holds several."""
    hflip_probability: float = Field(default=0.5, ge=0, le=1)
    """How often a clip is seen mirrored; takes effect where the store holds the `hflip` set of the same spec."""
    box_jitter: float = Field(default=0.075, ge=0, lt=0.5)
    """Each box coordinate moves by uniform(-j, j) times the box's width or height."""
    repeat_threshold: float | None = Field(default=None, gt=0, le=1)
    """Share of the clips below which a class has its clips repeated (repeat-factor sampling); None = each clip once."""
    reader_threads: int = Field(default=2, ge=1, le=64)
    resident: Literal["auto", "always", "never"] = "auto"
    """Whether features are read once and stay in the device's memory; auto = on a GPU, where they fit."""
    folder: RelativePath | None = None
    """Folder of the data set below the service's data root, None = called as the data set; for training.backbone."""

    @property
    def looks_around(self) -> bool:
        """Whether the head sees other key frames than a clip's."""
        return bool(self.neighbours or self.bank_s)

    @property
    def reach(self) -> dict[str, int]:
        """How far it looks, as `Neighbourhood` takes it."""
        return {"count": self.neighbours, "step_ms": self.neighbour_ms, "bank_ms": 1000 * self.bank_s}

    @property
    def datasets(self) -> dict[str, str]:
        """Names of all data sets, by what a run calls them: the first one is ""."""
        return {"": self.dataset, **{name: name for name in self.additional}}

    @property
    def trained_on(self) -> str:
        """The splits in words."""
        return " and ".join(f"{name}/{self.train_split}" for name in self.datasets.values())

    @model_validator(mode="after")
    def _data_sets_can_be_joined(self) -> Self:
        names = [self.dataset, *self.additional]
        if len(set(names)) < len(names):
            raise ValueError(f"dataset and additional are {', '.join(names)}; name each data set once")
        if self.additional and (self.boxes, self.layout, self.bank_s) != ("ground_truth", "key_frames", 0):
            raise ValueError(
                f"boxes is {self.boxes}, layout is {self.layout} and bank_s is {self.bank_s}, but several data sets "
                "are trained on with ground_truth, key_frames and 0 only; set them so, or additional to []"
            )
        return self

    @model_validator(mode="after")
    def _boxes_can_be_shown(self) -> Self:
        if self.boxes == "ground_truth" and self.proposals is not None:
            raise ValueError(
                f"proposals is {self.proposals}, but boxes is ground_truth; set boxes to detected or both, or "
                "proposals to null"
            )
        if self.boxes != "ground_truth" and self.layout == "rows":
            raise ValueError(
                f"boxes is {self.boxes}, but layout is rows, and a detected box has no annotation row; set boxes to "
                "ground_truth, or layout to key_frames"
            )
        for name in ("neighbours", "bank_s") if self.boxes == "both" else ():
            if value := getattr(self, name):
                raise ValueError(
                    f"boxes is both and {name} is {value}, but other key frames show one set of boxes; set boxes to "
                    f"ground_truth or detected, or {name} to 0"
                )
        return self


class Validation(Section):
    split: Name | None = None
    """Annotated split that is scored after an epoch."""
    held_out: float | None = Field(default=None, gt=0, lt=1)
    """Fraction of the videos of the training split that are scored instead, and not trained on; None = none are.

    With neither there is no validation.
    """
    datasets: Annotated[tuple[Name, ...], Field(min_length=1, max_length=16)] | None = None
    """Data sets whose split or held-out videos are scored, all as one; None = all that are trained on."""
    every_epochs: int = Field(default=1, ge=1, le=_MAX_COUNT)
    keep_best: bool = True
    """Keep the checkpoint with the best validation mAP; switch it off where the split is the test split."""
    stop_after_epochs: int | None = Field(default=None, ge=1, le=_MAX_COUNT)
    """End the run at a validation so many epochs after the best one, or later; None = train all epochs."""

    @model_validator(mode="after")
    def _stopping_needs_scores(self) -> Self:
        if self.stop_after_epochs is not None and self.split is None and self.held_out is None:
            raise ValueError("stop_after_epochs needs a validation; set split or held_out, or leave it out")
        return self

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.split is not None and self.held_out is not None:
            raise ValueError(
                f"split is {self.split} and held_out is {self.held_out:g}, but only one of them is scored; set the "
                "other to null, as with --set validation.split=null --set validation.held_out=0.2"
            )
        return self


class Sgd(Section):
    kind: Literal["sgd"]
    learning_rate: float = Field(gt=0, le=1000)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=1e-7, ge=0, le=1000)

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs momentum above 0; set nesterov=false or a momentum")
        return self


class AdamW(Section):
    kind: Literal["adamw"]
    learning_rate: float = Field(gt=0, le=1000)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0, le=1000)


class Warmup(Section):
    """Linear from `warmup_start` times the learning rate to all of it."""

    warmup_epochs: float = Field(default=0, ge=0, le=_MAX_COUNT)
    warmup_start: float = Field(default=0.125, ge=0, le=1)


class StepSchedule(Warmup):
    kind: Literal["steps"]
    milestones: Annotated[tuple[Annotated[float, Field(gt=0, le=_MAX_COUNT)], ...], Field(max_length=1000)] = ()
    """Epochs (fractions allowed) at which the learning rate is multiplied by `gamma`."""
    gamma: float = Field(default=0.1, gt=0, le=1)


class CosineSchedule(Warmup):
    kind: Literal["cosine"]
    final: float = Field(default=0.0, ge=0, le=1)
    """Fraction of the learning rate that is left at the end of the last epoch."""


class Training(Section):
    epochs: int = Field(ge=1, le=_MAX_COUNT)
    batch_clips: int = Field(ge=1, le=_MAX_COUNT)
    """Key frames a step, over all ranks together; a multiple of the number of ranks."""
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    batch_norm: Literal["per_rank", "shared"] = "per_rank"
    """Whose clips a BatchNorm's statistics are of: each process's own, as published, or those of all processes."""
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Validate and save exponential moving averages of the weights; None = the weights themselves."""
    clip_gradient_norm: float | None = Field(default=None, gt=0, le=1e6)
    """Gradients of all ranks' mean with a larger norm are scaled down to it."""
    autocast: Literal["none", "bf16"] = "none"
    """What training computes the forward pass in; the loss, validation and prediction are always float32."""
    log_every_steps: int = Field(default=10, ge=1, le=_MAX_COUNT)
    collective_timeout_s: float = Field(default=600, gt=0, le=30 * 86400)
    """How long a rank waits for the others before the job fails."""
    backbone: Name = "none"
    """Backbone that is trained with the head, on clips that are decoded while training."""
    backbone_weights: RelativePath | None = None
    """What it starts from: a file below the store's weights folder, or random:SEED."""
    backbone_preset: Name | None = None
    """Its size, for random:SEED or a file that does not say."""
    init_head: RelativePath | None = None
    """Head file below the store's weights folder that the head starts from; None = newly initialised."""
    new_classifier: bool = False
    """Initialise the last layer of `init_head` anew: for another label map."""

    @model_validator(mode="after")
    def _new_classifier_of_a_head(self) -> Self:
        if self.new_classifier and self.init_head is None:
            raise ValueError("new_classifier needs init_head; without one the whole head is new")
        return self

    @model_validator(mode="after")
    def _backbone_has_weights(self) -> Self:
        if self.backbone != "none":
            backbone_of(self.backbone)
        if self.backbone != "none" and self.backbone_weights is None:
            raise ValueError(
                f"backbone is {self.backbone}, so backbone_weights must name a file below the store's weights folder, "
                "or random:SEED"
            )
        if self.backbone == "none" and (self.backbone_weights or self.backbone_preset):
            raise ValueError("backbone_weights and backbone_preset need a backbone, such as backbone: slowfast")
        return self
