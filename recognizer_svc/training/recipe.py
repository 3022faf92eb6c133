"""A recipe: everything that decides a training run, read from YAML and checked before anything starts."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, SerializeAsAny, field_validator, model_validator

from cache.statistics import StatisticName
from recognizer_svc.heads import HEADS, HeadConfig, head_config, head_of
from recognizer_svc.heads.regions import Regions
from recognizer_svc.losses import Loss, loss_of
from recognizer_svc.training.recipe_sections import (
    AdamW,
    CosineSchedule,
    Data,
    Name,
    Sgd,
    StepSchedule,
    Training,
    Validation,
)
from stal_data.errors import InputError, NotFoundError, did_you_mean
from stal_data.sections import Section, validated
from stal_data.user_files import read_text_bounded
from stal_data.yaml_text import MAX_BYTES, load_yaml

_MAX_NODES = 5000  # of a text that a client sends

# What a resumed run may change, besides its name and its validation; of that, all but what is held out.
_CHANGEABLE = {
    "training.epochs",
    "training.log_every_steps",
    "training.collective_timeout_s",
    "data.reader_threads",
    "data.resident",
    "data.folder",
    "data.feature_set",  # another set of the same spec, or the one that was the only one before
    "data.proposals",  # the same boxes: see `check_same_proposals`
}


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
    def _other_key_frames_are_seen(self) -> Self:
        data = self.data
        for name, value, what, able in (
            ("neighbours", data.neighbours, "sees no neighbouring key frames", lambda head: head.sees_neighbours),
            ("bank_s", data.bank_s, "has no feature bank", lambda head: head.bank is not None),
        ):
            if not value:
                continue
            if not able(head_of(self.head.kind)):
                kinds = ", ".join(kind for kind, head in HEADS.items() if able(head))
                raise ValueError(
                    f"data.{name} is {value}, but the head {self.head.kind} {what}; set it to 0, or choose head.kind "
                    f"among {kinds}"
                )
            if data.layout == "rows":
                raise ValueError(f"data.{name} is {value}, which needs data.layout: key_frames; it is rows")
            if self.training.backbone != "none":
                raise ValueError(
                    f"data.{name} is {value}, but training.backbone is {self.training.backbone}; other key frames come "
                    "from the cache alone, so set one of the two to 0 or none"
                )
        return self

    @model_validator(mode="after")
    def _data_sets_are_known(self) -> Self:
        known, trained = self.data.datasets.values(), self.training.backbone
        if unknown := [name for name in self.validation.datasets or () if name not in known]:
            raise ValueError(
                f"validation.datasets names {unknown[0]}, but the recipe trains on {', '.join(known)}; name some of "
                "these, or leave it out"
            )
        if self.data.additional and trained != "none":
            raise ValueError(
                f"data.additional is {list(self.data.additional)}, but training.backbone is {trained}, which sees the "
                "frames of one data set; set one of the two to [] or none"
            )
        return self

    @property
    def validated_datasets(self) -> tuple[str, ...]:
        """Of these, a split or held-out videos are scored."""
        validation = self.validation
        if validation.split is None and validation.held_out is None:
            return ()
        return validation.datasets or tuple(self.data.datasets.values())

    @property
    def bank(self) -> Regions | None:
        """How the vectors of the feature bank are made; None without a bank."""
        make = head_of(self.head.kind).bank
        return make(self.head) if make is not None and self.data.bank_s else None

    @property
    def statistics(self) -> tuple[StatisticName, ...]:
        """Of the maps that the head sees, where the feature set holds them."""
        return self.data.statistics or head_of(self.head.kind).statistics

    @property
    def validated_on(self) -> str | None:
        """What is scored after epochs, in words; None without validation."""
        split, held_out = self.validation.split or self.data.train_split, self.validation.held_out
        names = " and ".join(f"{name}/{split}" for name in self.validated_datasets) or None
        return names if held_out is None else f"{100 * held_out:g} % of the videos of {names}, held out"

    def to_yaml(self) -> str:
        """The resolved recipe, defaults filled in; `load_recipe` reads it back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def fixed_settings(self) -> dict[str, object]:
        """What a run keeps from its first start to its last, by dotted name: all but its length and what is logged."""
        sections = self.model_dump(mode="json", exclude={"name", "validation"})
        flat = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
        if self.validation.held_out is not None:  # what is held out is not trained on
            flat |= {f"validation.{key}": getattr(self.validation, key) for key in ("held_out", "datasets")}
        return {name: value for name, value in flat.items() if name not in _CHANGEABLE}


def shipped_recipes() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    return tuple(
        sorted(entry.name.removesuffix(".yaml") for entry in files("recipes").iterdir() if entry.name.endswith(".yaml"))
    )


def known_keys() -> tuple[str, ...]:
    """Dotted names of all keys but those of heads and losses, which depend on their kind."""
    fields: dict[str, tuple[type[Section], ...]] = {
        "data": (Data,),
        "validation": (Validation,),
        "optimizer": (Sgd, AdamW),
        "schedule": (StepSchedule, CosineSchedule),
        "training": (Training,),
    }
    found = [f"{section}.{key}" for section, models in fields.items() for model in models for key in model.model_fields]
    return tuple(dict.fromkeys(found))


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
