"""Option types with the project's conventions. Every number has an upper bound, where an error can still name it."""

import math
import re
from typing import Any

import click


class Real(click.FloatRange):
    """`click.FloatRange` without NaN, which lies in no range and outside of none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"'{value}' must be a number.", param, ctx)
        return number


class ImageSizeType(click.ParamType[tuple[int, int]]):
    """HEIGHTxWIDTH in pixels, as 180x320; the value is (height, width)."""

    name = "HEIGHTxWIDTH"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:  # noqa: ARG002
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"([1-9]\d{0,4})[xX]([1-9]\d{0,4})", str(value))
        if match is None:
            self.fail(f"'{value}' must be HEIGHTxWIDTH in pixels, e.g. 180x320 for frames 320 wide and 180 high.")
        return int(match[1]), int(match[2])


class NumberListType(click.ParamType[tuple[int, ...]]):
    """Non-negative whole numbers with commas between, as 0,1."""

    name = "N,N,..."

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:  # noqa: ARG002
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", str(value)):
            self.fail(f"'{value}' must be whole numbers with commas between, e.g. 0,1.")
        return tuple(int(number) for number in str(value).split(","))


class BatchType(click.ParamType[int | None]):
    """Images in a batch, or `dynamic` for any number; the value of that is None."""

    name = "N|dynamic"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int | None:  # noqa: ARG002
        if isinstance(value, int):
            return value
        if value == "dynamic":
            return None
        if not re.fullmatch(r"\d{1,4}", str(value)) or not 1 <= int(str(value)) <= 1024:
            self.fail(f"'{value}' must be a number from 1 to 1024, or dynamic.")
        return int(str(value))


BATCH = BatchType()
CONFIDENCE = Real(0, 1, min_open=True, max_open=True)
COUNT = click.IntRange(1, 1_000_000)
COUNT_FROM_0 = click.IntRange(0, 1_000_000)
LONGEST_S = 30 * 86400.0
IMAGE_SIZE = ImageSizeType()
NUMBER_LIST = NumberListType()
SEED = click.IntRange(0, 2**32 - 1)
THREADS = click.IntRange(1, 1024)
