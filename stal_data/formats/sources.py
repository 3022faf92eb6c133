"""Files of annotation tools before their format is known, and what a format of the table declares."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic_core import from_json

from stal_data.errors import InputError, NotFoundError
from stal_data.formats.tracks import FileAnnotations
from stal_data.labels import LabelMap
from stal_data.published.unpickle_arrays import load_arrays
from stal_data.sections import validated
from stal_data.user_files import open_regular, read_bounded

MAX_BYTES = 1 << 29  # 512 MiB
"""A larger text file is refused; what is read takes some ten times its size in memory."""

M = TypeVar("M", bound=BaseModel)
_KINDS = {
    "pickle": re.compile(rb"\x80|\([dl]|[}\]]q"),  # of protocol 2 on, 0, 1
    "JSON": re.compile(rb'\{\s*["}]|\[\s*[{\]]'),
    "XML": re.compile(rb"<[?!\w]"),
    "zip archive": re.compile(rb"PK\x03\x04"),
}
"""By the first bytes; video ids, with which lines of CSV begin, may begin with any sign, too."""


class Foreign(BaseModel):
    """Base of the models of other tools' JSON: fields that are not read are allowed."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the user says about the files.

    label_map: for files that have ids in place of names. action_attributes: those that hold actions; none named: all
    with a choice of values. first_frame: number of a video's first image in the names of images.
    """

    label_map: LabelMap | None = None
    action_attributes: tuple[str, ...] = ()
    first_frame: int = 1


class Source:
    """A file, or a folder, whose content is parsed once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise NotFoundError(f"The file {path} does not exist.")

    @cached_property
    def kind(self) -> str:
        """`folder`, `pickle`, `JSON`, `XML`, `zip archive` or `text`."""
        if self.path.is_dir():
            return "folder"
        with open_regular(self.path) as file:
            start = file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
        return next((kind for kind, sign in _KINDS.items() if sign.match(start)), "text")

    @cached_property
    def json(self) -> Any:
        content = read_bounded(self.path, MAX_BYTES)
        try:
            return from_json(content.removeprefix(b"\xef\xbb\xbf"), allow_inf_nan=False)
        except ValueError as error:
            raise InputError(f"{self.path} is not JSON that can be read: {error}.") from None

    @cached_property
    def pickle(self) -> Any:
        return load_arrays(self.path)

    def model(self, model: type[M]) -> M:
        """Return the JSON as a model; an error names the element and the rule."""
        return validated(model, self.json, str(self.path))

    def lacks_kind(self, kind: str) -> str | None:
        return None if self.kind == kind else f"it is a {self.kind} file, not {kind}"

    def lacks_keys(self, kind: Literal["JSON", "pickle"], keys: Iterable[str]) -> str | None:
        """Return what is missing in the map that the whole file must be, None if nothing is."""
        if self.kind != kind:
            return self.lacks_kind(kind)
        value = self.json if kind == "JSON" else self.pickle
        missing = [key for key in keys if not (isinstance(value, dict) and key in value)]
        return f"it has no {', '.join(map(repr, missing))} at its top level" if missing else None


@dataclass(frozen=True, kw_only=True)
class ToolFormat:
    """A format of the table. name: of --format.

    lacks: what keeps a source from being in the format, None for nothing. read: the whole source.
    """

    name: str
    lacks: Callable[[Source], str | None]
    read: Callable[[Source, Reading], FileAnnotations]
