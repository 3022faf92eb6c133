"""The options that say where a machine keeps shards of a store in a bucket."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from cache.store import Stage

F = TypeVar("F", bound=Callable[..., Any])
_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}


class SizeType(click.ParamType[int]):
    """A number and MB, GB or TB, as 200GB; the value is in bytes."""

    name = "SIZE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ARG002
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*(MB|GB|TB)", str(value).upper())
        if match is None or not float(match[1]):
            self.fail(f"'{value}' must be a number and MB, GB or TB, e.g. 200GB.")
        return int(float(match[1]) * _UNITS[match[2]])


@dataclass(frozen=True, kw_only=True)
class StageOptions:
    """folder: None where --stage is not given."""

    folder: Path | None
    limit_bytes: int

    def stage(self) -> Stage | None:
        return None if self.folder is None else Stage(folder=self.folder, limit_bytes=self.limit_bytes)


def stage_options(command: F) -> F:
    """Add --stage and --stage-limit; the command receives them as `stage: StageOptions`."""

    @click.option(
        "--stage",
        "stage_folder",
        type=click.Path(file_okay=False, path_type=Path),
        help="Local folder for shards of a store in a bucket: each is fetched once, whole.",
    )
    @click.option("--stage-limit", type=SizeType(), default="100GB", show_default=True, help="Most that --stage keeps.")
    @wraps(command)
    def build(stage_folder: Path | None, stage_limit: int, **values: Any) -> Any:
        return command(stage=StageOptions(folder=stage_folder, limit_bytes=stage_limit), **values)

    return build  # type: ignore[return-value]
