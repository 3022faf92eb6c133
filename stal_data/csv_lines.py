"""CSV without a header, line by line."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from stal_data.errors import InputError, NotFoundError
from stal_data.files import write_atomically
from stal_data.user_files import BoundedLines, open_regular


def read_csv(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number (from 1) and fields of every line that is not empty."""
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig", newline="") as file:
            yield from fields_of(file, path)
    except FileNotFoundError:
        raise NotFoundError(f"The file {path} does not exist.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as CSV: {error}.") from error


def fields_of(file: TextIO, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and fields of every line that is not empty; quotes that leave a doubt are an error.

    Of a row with a line break in quotes the number is that of its first line.
    """
    reader = csv.reader(BoundedLines(file, path), strict=True)  # else text after a closing quote makes another id
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path}, line {line}: {error}. A field with a comma or a quote stands in quotes, each quote in "
            'it twice: "a ""b"", c".'
        ) from error


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Write rows so that every CSV reader gives them back; the file appears whole or not at all."""
    write_atomically(path, csv_text(rows))


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return what `write_csv` writes."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def broken_header_rule(fields: Sequence[str], line: int | None = None) -> str | None:
    """Return what is wrong with a line that names columns: with words, or with the positions that pandas writes."""
    words = [text for text in fields[1:7] if text.strip() and as_number(text) is None]
    # Of two columns a word may be a slip for a number, but not in the first line.
    named = len(words) == len(fields[1:7]) and (len(fields) > 2 or (len(fields) == 2 and line == 1))
    if named or (len(fields) > 2 and all(text == str(position) for position, text in enumerate(fields))):
        return "the line looks like a header, but the format has none: remove the line."
    return None


def as_number(text: str) -> float | None:
    """Return the number that a field holds, which may be NaN or infinite; None where it holds none."""
    try:
        return None if "_" in text else float(text)  # Python reads 1_000, CSV readers do not
    except ValueError:
        return None
