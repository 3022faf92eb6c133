"""dataset.yaml: what a data set consists of. Paths in it are relative to its folder."""

import os
import re
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from stal_data.errors import InputError, NotFoundError
from stal_data.formats import format_of
from stal_data.media import DEFAULT_PATTERN
from stal_data.media.timeline import FPS
from stal_data.names import check_name, check_video_id
from stal_data.sections import Section, validated
from stal_data.yaml_text import read_yaml

FILE_NAME = "dataset.yaml"
_RATE = re.compile(r"\d{1,9}(\.\d{1,20})?(/\d{1,9})?")
_RATE_RULE = "write a number such as 25, 29.97 or '30000/1001'"


def _fraction(value: Any) -> Any:
    """Accept 25, 29.97 and "30000/1001"; a float means its decimal text."""
    if isinstance(value, str) and not _RATE.fullmatch(value):  # 1e999999999 would fill the memory
        raise ValueError(_RATE_RULE)
    if isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return Fraction(str(value))
        except (ValueError, ZeroDivisionError):
            raise ValueError(_RATE_RULE) from None
    return value


def _positive(value: Fraction) -> Fraction:
    if not 0 < value <= 1000:
        raise ValueError("must be above 0 and at most 1000 frames a second")
    return value


def _path_text(value: str) -> str:
    try:
        if b"\0" not in os.fsencode(value):
            return value
    except UnicodeEncodeError:  # half of a character
        pass
    raise ValueError("cannot be a path")


PathText = Annotated[str, AfterValidator(_path_text)]
Seconds = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]
Rate = Annotated[Fraction, BeforeValidator(_fraction), AfterValidator(_positive)]
Name = Annotated[str, AfterValidator(lambda value: check_name("The name", value))]
VideoId = Annotated[str, AfterValidator(lambda value: check_video_id("The video id", value))]


class _Section(Section):
    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True)


class FramesSpec(_Section):
    """Image files root/pattern. fps: rate of extraction. first_frame: number of a video's first file."""

    kind: Literal["frames"]
    root: PathText
    pattern: str = DEFAULT_PATTERN
    fps: Rate = Fraction(FPS)
    first_frame: Annotated[int, Field(ge=0, le=10**9)] = 1
    start_s: Seconds = 0.0


class VideoSpec(_Section):
    """Video files: all in the folder root (id = name without extension), or files: {id: path}."""

    kind: Literal["video"]
    root: PathText | None = None
    files: dict[VideoId, PathText] | None = None
    start_s: Seconds = 0.0

    @model_validator(mode="after")
    def _one_source(self) -> "VideoSpec":
        if (self.root is None) == (self.files is None):
            raise ValueError("needs either root (a folder of video files) or files (a map of video id to path)")
        return self


class SplitSpec(_Section):
    """annotations: CSV file; or videos: patterns of video ids whose every whole second is a key frame.

    first_row: `lost` where the file was made from a published pickle, which lacks its source's first row.
    """

    annotations: PathText | None = None
    exclusions: PathText | None = None
    first_row: Literal["present", "lost"] = "present"
    videos: str | list[str] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "SplitSpec":
        if (self.annotations is None) == (self.videos is None):
            raise ValueError("needs either annotations (a CSV file) or videos (ids or a pattern such as '*')")
        return self


def _known_format(name: str) -> str:
    try:
        format_of(name)
    except InputError as error:
        raise ValueError(str(error)) from None
    return name


class DatasetSpec(_Section):
    """unknown_labels: what to do with labels that the map does not have; AVA's 60-class map needs `drop`."""

    name: Name
    format: Annotated[str, AfterValidator(_known_format)] | None = None
    unknown_labels: Literal["error", "drop"] = "error"
    label_map: PathText | None = None
    media: Annotated[FramesSpec | VideoSpec, Field(discriminator="kind")]
    splits: Annotated[dict[Name, SplitSpec], Field(min_length=1)]

    @model_validator(mode="after")
    def _annotated_needs_labels(self) -> "DatasetSpec":
        annotated = [name for name, split in self.splits.items() if split.annotations is not None]
        if annotated and (self.format is None or self.label_map is None):
            raise ValueError(f"split '{annotated[0]}' has annotations, so format and label_map are needed")
        return self


def read_spec(path: Path) -> DatasetSpec:
    """Read a dataset.yaml; an error names the file and the field."""
    try:
        content = read_yaml(path)
    except FileNotFoundError:
        raise NotFoundError(
            f"There is no data set at {path.parent}: it has no {FILE_NAME}. Give a folder with one; "
            "`stal-cli dataset synth` and `stal-cli dataset from-videos` write such folders."
        ) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a map with the keys {', '.join(DatasetSpec.model_fields)}.")
    return validated(DatasetSpec, content, str(path), unions=("media",))
