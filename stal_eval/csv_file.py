"""CSV files without a header, gzip or plain: whole columns for speed, single lines to explain what is wrong."""

import gzip
import io
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stal_data.csv_lines import fields_of
from stal_data.digests import sha256_of
from stal_data.errors import InputError, NotFoundError
from stal_eval.extra import pd
from stal_eval.rules import Kind, columns_of

_GZIP_MAGIC = b"\x1f\x8b"
# Whole numbers too are read as float64, which holds all that the rules allow: pandas turns inf into some integer.
NUMBERS = ("timestamp", "x1", "y1", "x2", "y2", "label", "score")
# As categories of nothing but numbers pandas would take 007 and 7 for one video; ground truth's persons are not used.
_TYPES = {"video": "str", "person": "category"} | dict.fromkeys(NUMBERS, "float64")


class UnreadableError(Exception):
    """A file that is no table of the expected types; the text is the parser's, without a line to rely on."""


def digest_of(path: Path) -> str:
    """Return the sha256 (hex) of the file's bytes as they are on disk."""
    with _clear_errors(path):
        return sha256_of(path)


def read_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number (from 1) and fields of every line that is not empty."""
    with (
        _clear_errors(path),
        gzip.open(path) if _is_gzip(path) else path.open("rb") as file,
        io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text,
    ):
        yield from fields_of(text, path)


def read_columns(path: Path, kind: Kind) -> pd.DataFrame:
    """Read every row at once; raises UnreadableError where a row is not made of the right types.

    The last column, person, may be left out; it is then empty.
    """
    names = columns_of(kind)
    types = _TYPES | ({"person": "str"} if kind == "predictions" else {})
    first = next(read_lines(path), None)
    if first is None:
        return pd.DataFrame({name: pd.Series(dtype=types[name]) for name in names})
    # pandas would shift or cut rows that are all longer than `names`; later longer rows it refuses.
    if len(first[1]) > len(names):
        raise UnreadableError(f"the first line has {len(first[1])} columns")
    # pandas reads a column of nothing but True and False as 1 and 0; one that only becomes so it refuses.
    if any(name in NUMBERS and text.lower() in ("true", "false") for name, text in zip(names, first[1], strict=False)):
        raise UnreadableError("the first line holds True or False where a number must be")
    if _has_quotes(path):
        deque(read_lines(path), maxlen=0)  # pandas takes '"a" b' for the id 'a b'
    with _clear_errors(path):
        try:
            return pd.read_csv(
                path,
                header=None,
                # Without `usecols`, which would make longer lines legal.
                names=list(names),
                dtype=types,
                index_col=False,
                # A video may be called NA, and an empty number is an error.
                na_filter=False,
                compression="gzip" if _is_gzip(path) else None,
            )
        except (UnicodeDecodeError, OSError, EOFError, zlib.error):
            raise
        except (ValueError, TypeError, OverflowError, pd.errors.ParserError) as error:
            raise UnreadableError(str(error).strip()) from error


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC


def _has_quotes(path: Path) -> bool:
    with _clear_errors(path), gzip.open(path) if _is_gzip(path) else path.open("rb") as file:
        return any(b'"' in block for block in iter(lambda: file.read(1 << 20), b""))


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    try:
        if path.exists() and not path.is_file():
            # A pipe would lose what the first of several reads takes.
            raise InputError(
                f"{path} cannot be read as CSV: it is a folder, a pipe or a device, but must be a file, which is read "
                "more than once: write one first."
            )
        yield
    except FileNotFoundError:
        raise NotFoundError(f"The file {path} does not exist.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is damaged gzip ({error}): write or copy it again.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as CSV: {error}.") from error
