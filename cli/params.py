"""Option types with the project's conventions."""

import re

import click


class ImageSizeType(click.ParamType[tuple[int, int]]):
    """HEIGHTxWIDTH in pixels, as 180x320; the value is (height, width)."""

    name = "HEIGHTxWIDTH"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:  # noqa: ARG002
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", str(value))
        if match is None:
            self.fail(f"'{value}' must be HEIGHTxWIDTH in pixels, e.g. 180x320 for frames 320 wide and 180 high.")
        return int(match[1]), int(match[2])


class NumberListType(click.ParamType[tuple[int, ...]]):
    """Non-negative whole numbers with commas between, as 0,1."""

    name = "N,N,..."

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:  # noqa: ARG002
        if isinstance(value, tuple):
            return value
        if not re.fullmatch(r"\d+(,\d+)*", str(value)):
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
        if not str(value).isdigit() or not 1 <= int(str(value)) <= 1024:
            self.fail(f"'{value}' must be a number from 1 to 1024, or dynamic.")
        return int(str(value))


BATCH = BatchType()
IMAGE_SIZE = ImageSizeType()
NUMBER_LIST = NumberListType()
