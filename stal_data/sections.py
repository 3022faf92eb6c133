"""Pydantic models of files that people write, and what such a file says wrong, in one sentence a problem."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from stal_data.errors import InputError, did_you_mean, shown, shown_problems

M = TypeVar("M", bound=BaseModel)
MAX_CHANNELS = 8192
"""Of a layer whose size a file chooses."""


class Section(BaseModel):
    """Base of all sections of a file: immutable, and an unknown key is an error that says which one was meant."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key {shown(key)}. {did_you_mean(str(key), cls.model_fields)}")
        return values


def section_of_kind(values: object, base: type[M], kinds: Iterable[str], find: Callable[[Any], type[M] | None]) -> M:
    """Return a section whose key `kind` chooses its model; ValueError, as pydantic wants it, where it chooses none.

    kinds: what messages offer. find: from a kind to the model, None where there is none.
    """
    if isinstance(values, base):
        return values
    if not isinstance(values, Mapping):
        raise ValueError("must be a mapping with the key kind")  # noqa: TRY004
    offered = ", ".join(map(repr, kinds))
    if "kind" not in values:
        raise ValueError(f"lacks the key kind, one of {offered}")
    kind = values["kind"]
    model = find(kind) if isinstance(kind, str) else None
    if model is None:
        raise ValueError(f"kind is {shown(kind)}, but must be one of {offered}")
    return model.model_validate(values)


def validated(model: type[M], values: object, source: str, *, unions: Collection[str] = ()) -> M:
    """Return `values` as a model; an error names `source` and each field.

    unions: the fields, as dotted names, that hold one of several models.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{source}: {shown_problems(error.errors(), lambda item: _text(item, unions))}") from None


def _text(problem: Any, unions: Collection[str]) -> str:
    """`head.depth is 'two': Input should be a valid integer`."""
    location = [str(part)[:100] for part in problem["loc"]]
    # Behind a union's name stands the chosen variant, which the file does not have: head, acar, depth.
    names = [part for number, part in enumerate(location) if ".".join(location[:number]) not in unions]
    where, message = ".".join(names) or "top level", problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "string_type" and isinstance(problem["input"], (bool, int, float)):
        message = "YAML reads this as another type than text: put it in quotes"
    elif problem["type"] in ("bool_parsing", "bool_type"):
        message = "it must be true or false"
    if problem["type"] == "missing" or isinstance(problem["input"], Mapping):
        return f"{where}: {message}"
    return f"{where} is {shown(problem['input'])}: {message}"
