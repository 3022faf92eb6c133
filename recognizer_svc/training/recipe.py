"""A recipe: everything that decides a training run, read from YAML and checked before anything starts."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, SerializeAsAny, field_validator, model_validator

from cache.backbones import backbone_of
from cache.statistics import StatisticName
from recognizer_svc.heads import HEADS, HeadConfig, head_config, head_of
from recognizer_svc.losses import Loss, loss_of
from recognizer_svc.neighbours import MAX_NEIGHBOURS
from stal_data.errors import InputError, NotFoundError, did_you_mean
from stal_data.names import MAX_NAME_LENGTH
from stal_data.sections import Section, validated
from stal_data.user_files import read_text_bounded
from stal_data.yaml_text import MAX_BYTES, load_yaml

Layout = Literal["key_frames", "rows"]
"""What a clip shows: all people of a key frame, or one annotation row, as published: its person and action alone."""
TrainingBoxes = Literal["ground_truth", "detected", "both"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=MAX_NAME_LENGTH)]
_MAX_COUNT = 1_000_000
_MAX_PATH = 1000
_MAX_NODES = 5000  # of a text that a client sends
_MAX_STEP_MS = 3_600_000


def _relative(value: str) -> str:
    path = PurePosixPath(value)
    if len(value) > _MAX_PATH:
        raise ValueError(f"has {len(value)} characters, but may have {_MAX_PATH} at most")
    if not value or not value.isprintable() or "\\" in value or path.is_absolute() or ".." in path.parts:
        raise ValueError("must be a path relative to the folder that the operator chose, without '..'")
    return value


RelativePath = Annotated[str, AfterValidator(_relative)]


# What a resumed run may change, besides its name and its validation; of that, all but what is held out.
_CHANGEABLE = {
    "training.epochs",
    "training.log_every_steps",
    "training.collective_timeout_s",
    "data.reader_threads",
    "data.folder",
    "data.feature_set",  # another set of the same spec, or the one that was the only one before
    "data.proposals",  # the same boxes: see `check_same_proposals`
}


class Data(Section):
    dataset: Name
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
    statistics: Annotated[tuple[StatisticName, ...], Field(min_length=1, max_length=8)] | None = None
    """Of the maps that the head sees, where the feature set holds them; None = what the head names."""
    neighbours: int = Field(default=0, ge=0, le=MAX_NEIGHBOURS)
    """Key frames before a clip's, and as many after it, in which the head sees each person, too; 0 = none."""
    neighbour_ms: int = Field(default=1000, ge=1, le=_MAX_STEP_MS)
    """From one neighbouring key frame to the next, in milliseconds; see `Neighbourhood.around`."""
    feature_set: Annotated[str, Field(max_length=MAX_NAME_LENGTH)] | None = None
    """Id of the identity set; needed only where the store holds several."""
    hflip_probability: float = Field(default=0.5, ge=0, le=1)
    """How often a clip is seen mirrored; takes effect where the store holds the `hflip` set of the same spec."""
    box_jitter: float = Field(default=0.075, ge=0, lt=0.5)
    """Each box coordinate moves by uniform(-j, j) times the box's width or height."""
    repeat_threshold: float | None = Field(default=None, gt=0, le=1)
    """Share of the clips below which a class has its clips repeated (repeat-factor sampling); None = each clip once."""
    reader_threads: int = Field(default=2, ge=1, le=64)
    folder: RelativePath | None = None
    """Folder of the data set below the service's data root, None = called as the data set; for training.backbone."""

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
        if self.boxes == "both" and self.neighbours:
            raise ValueError(
                f"boxes is both and neighbours is {self.neighbours}, but people are followed in one set of boxes; set "
                "boxes to ground_truth or detected, or neighbours to 0"
            )
        return self


class Validation(Section):
    split: Name | None = None
    """Annotated split that is scored after an epoch."""
    held_out: float | None = Field(default=None, gt=0, lt=1)
    """Fraction of the videos of the training split that are scored instead, and not trained on; None = none are.

    With neither there is no validation.
    """
    every_epochs: int = Field(default=1, ge=1, le=_MAX_COUNT)
    keep_best: bool = True
    """Keep the checkpoint with the best validation mAP; switch it off where the split is the test split."""
    stop_after_epochs: int | None = Field(default=None, ge=1, le=_MAX_COUNT)
    """End the run at a validation so many epochs after the best one, or later; None = train all epochs."""

    @property
    def takes_place(self) -> bool:
        """Whether anything is scored after epochs."""
        return self.split is not None or self.held_out is not None

    @model_validator(mode="after")
    def _stopping_needs_scores(self) -> Self:
        if self.stop_after_epochs is not None and not self.takes_place:
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
    autocast: Literal["none", "bfloat16"] = "none"
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


class Recipe(Section):
    name: Name
    data: Data
    validation: Validation = Validation()
    head: SerializeAsAny[HeadConfig]
    loss: SerializeAsAny[Loss]
    optimizer: Sgd | AdamW = Field(discriminator="kind")
    schedule: StepSchedule | CosineSchedule = Field(discriminator="kind")
    training: Training

    @field_validator("head", mode="before")
    @classmethod
    def _head_of_its_kind(cls, values: object) -> HeadConfig:
        return head_config(values)

    @field_validator("loss", mode="before")
    @classmethod
    def _loss_of_its_kind(cls, values: object) -> Loss:
        return loss_of(values)

    @model_validator(mode="after")
    def _head_sees_the_trained_backbone(self) -> Self:
        streams, trained = self.data.streams, self.training.backbone
        if trained != "none" and streams is not None and (trained not in streams or set(streams) == {trained}):
            raise ValueError(
                f"data.streams is {list(streams)}; it must hold {trained}, which training.backbone trains, and another "
                "backbone, whose features come from the cache"
            )
        return self

    @model_validator(mode="after")
    def _neighbours_are_seen(self) -> Self:
        count = self.data.neighbours
        if count and not head_of(self.head.kind).sees_neighbours:
            able = ", ".join(kind for kind, head in HEADS.items() if head.sees_neighbours)
            raise ValueError(
                f"data.neighbours is {count}, but the head {self.head.kind} sees no neighbouring key frames; set it to "
                f"0, or choose head.kind among {able}"
            )
        if count and self.data.layout == "rows":
            raise ValueError(f"data.neighbours is {count}, which needs data.layout: key_frames; it is rows")
        if count and self.training.backbone != "none":
            raise ValueError(
                f"data.neighbours is {count}, but training.backbone is {self.training.backbone}; neighbouring key "
                "frames come from the cache alone, so set one of the two to 0 or none"
            )
        return self

    @property
    def statistics(self) -> tuple[StatisticName, ...]:
        """Of the maps that the head sees, where the feature set holds them."""
        return self.data.statistics or head_of(self.head.kind).statistics

    @property
    def validated_on(self) -> str | None:
        """What is scored after epochs, in words; None without validation."""
        data, validation = self.data, self.validation
        if validation.held_out is not None:
            return f"{100 * validation.held_out:g} % of the videos of {data.dataset}/{data.train_split}, held out"
        return None if validation.split is None else f"{data.dataset}/{validation.split}"

    def to_yaml(self) -> str:
        """The resolved recipe, defaults filled in; `load_recipe` reads it back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def fixed_settings(self) -> dict[str, object]:
        """What a run keeps from its first start to its last, by dotted name: all but its length and what is logged."""
        sections = self.model_dump(mode="json", exclude={"name", "validation"})
        flat = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
        flat["validation.held_out"] = self.validation.held_out  # what is held out is not trained on
        return {name: value for name, value in flat.items() if name not in _CHANGEABLE}


def shipped_recipes() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    return tuple(
        sorted(entry.name.removesuffix(".yaml") for entry in files("recipes").iterdir() if entry.name.endswith(".yaml"))
    )


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply overrides.

    source: path of a YAML file, name of a shipped recipe (with or without `.yaml`), or YAML text (has a line break).
    overrides: `section.key=value` each; the value is read as YAML, so `null`, `[1, 2]` and `true` work.
    """
    text, where = read_recipe(source)
    return parse_recipe(text, overrides, source=where)


def parse_recipe(text: str, overrides: Sequence[str] = (), *, source: str = "recipe") -> Recipe:
    """Check a recipe's text; `source` names it in errors. Reads no file, so a service may pass a client's text."""
    values = load_yaml(text, source, max_nodes=_MAX_NODES)
    if not isinstance(values, dict):
        raise InputError(f"{source} must be a mapping with the keys {', '.join(Recipe.model_fields)}.")
    for override in overrides:
        _apply(values, override)
    return validated(Recipe, values, source, unions=("optimizer", "schedule"))


def read_recipe(source: str | Path) -> tuple[str, str]:
    """Return a recipe's text and what to call it in messages; `source` as in `load_recipe`."""
    if isinstance(source, str) and "\n" in source:
        return source, "recipe"
    path = Path(source)
    if path.is_file():
        return read_text_bounded(path, MAX_BYTES), str(path)
    name = str(source).removesuffix(".yaml")
    if name in shipped_recipes():
        return files("recipes").joinpath(f"{name}.yaml").read_text(encoding="utf-8"), f"recipes/{name}.yaml"
    raise NotFoundError(
        f"No recipe '{source}': neither a file nor a shipped one. {did_you_mean(name, shipped_recipes())}"
    )


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in place; sections on the way are created."""
    path, separator, text = override.partition("=")
    quoted = override if len(override) <= 200 else f"{override[:200]} ..."
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise InputError(f"Override '{quoted}' must have the form section.key=value, for example head.depth=1.")
    for key in keys[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise InputError(f"Override '{quoted}': '{key[:100]}' is a value, not a section.")
    try:
        values[keys[-1]] = load_yaml(text, "the value", max_nodes=_MAX_NODES)
    except InputError:
        raise InputError(f"Override '{quoted}': '{text[:100]}' is not a YAML value.") from None
