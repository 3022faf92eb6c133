"""Rows of predictions or ground truth as arrays, from a CSV file or a DataFrame."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stal_data.errors import InputError, did_you_mean
from stal_data.rows import BOX_SLACK
from stal_eval.csv_file import UnreadableError, digest_of, read_columns, read_lines
from stal_eval.rules import LABEL_MAX, TIMESTAMP_MAX, Kind, broken_rule, columns_of

_TYPES = {"timestamp": np.int64, "label": np.int64} | dict.fromkeys(("x1", "y1", "x2", "y2", "score"), np.float64)


@dataclass(frozen=True, kw_only=True)
class Table:
    """N rows in file order.

    source: what messages call it. digest: sha256 (hex) of the file's bytes, or of the columns of a DataFrame.
    videos, video_N: video ids, and for each row the position of its own. timestamp_N: whole seconds.
    boxes_N4: x1,y1,x2,y2 in [0,1]. label_N: ids as in the label map. score_N: None for ground truth.
    """

    source: str
    digest: str
    videos: tuple[str, ...]
    video_N: NDArray[np.int64]
    timestamp_N: NDArray[np.int64]
    boxes_N4: NDArray[np.float64]
    label_N: NDArray[np.int64]
    score_N: NDArray[np.float64] | None

    @property
    def num_rows(self) -> int:
        return len(self.label_N)


def load_table(rows: Path | str | pd.DataFrame, kind: Kind) -> Table:
    """Read a CSV file (gzip or plain, no header), or take a DataFrame with the columns of `rules`; check every row."""
    if isinstance(rows, pd.DataFrame):
        return _from_frame(rows, kind)
    path = Path(rows)
    try:
        table = _build(read_columns(path, kind), kind, source=str(path), digest=digest_of(path))
    except UnreadableError as error:
        raise _explained(read_lines(path), kind, str(path), "line", str(error)) from None
    if not _is_valid(table):
        raise _explained(read_lines(path), kind, str(path), "line", "a value is out of range")
    return table


def _from_frame(frame: pd.DataFrame, kind: Kind) -> Table:
    source = f"the {kind} DataFrame"
    needed = [name for name in columns_of(kind) if name != "person"]
    for name in needed:
        if name not in frame.columns:
            hint = did_you_mean(name, map(str, frame.columns))
            raise InputError(f"{source} has no column '{name}', but needs {', '.join(needed)}. {hint}")
    frame = frame[needed]
    rows = ((position, [str(value) for value in row]) for position, row in enumerate(frame.itertuples(index=False)))
    try:
        converted = frame.astype({name: _TYPES.get(name, str) for name in needed})
    except (ValueError, TypeError, OverflowError) as error:
        raise _explained(rows, kind, source, "row", str(error)) from None
    # astype cuts 1.5 to 1 without a word.
    if any((converted[name] != frame[name]).any() for name in ("timestamp", "label")):
        raise _explained(rows, kind, source, "row", "a timestamp or label id is no whole number")
    frame = converted
    digest = hashlib.sha256(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes()).hexdigest()
    table = _build(frame, kind, source=source, digest=digest)
    if not _is_valid(table):
        raise _explained(rows, kind, source, "row", "a value is out of range")
    return table


def _build(columns: pd.DataFrame, kind: Kind, *, source: str, digest: str) -> Table:
    codes, videos = pd.factorize(columns["video"])
    return Table(
        source=source,
        digest=digest,
        videos=tuple(map(str, videos)),
        video_N=codes.astype(np.int64),
        timestamp_N=columns["timestamp"].to_numpy(),
        boxes_N4=columns[["x1", "y1", "x2", "y2"]].to_numpy(),
        label_N=columns["label"].to_numpy(),
        score_N=columns["score"].to_numpy() if kind == "predictions" else None,
    )


def _is_valid(table: Table) -> bool:
    """Tell whether every row keeps the rules of `broken_rule`, for all rows at once."""
    if table.num_rows == 0:
        return True
    x1, y1, x2, y2 = table.boxes_N4.T
    # Comparisons with NaN are false, so each one also refuses NaN.
    inside = table.boxes_N4.min() >= -BOX_SLACK and table.boxes_N4.max() <= 1 + BOX_SLACK
    if table.score_N is None:
        ordered = (x1 < x2).all() and (y1 < y2).all()
    else:
        ordered = (x1 <= x2).all() and (y1 <= y2).all() and np.isfinite(table.score_N).all()
    return bool(
        inside
        and ordered
        and "" not in table.videos
        and table.timestamp_N.min() >= 0
        and table.timestamp_N.max() <= TIMESTAMP_MAX
        and table.label_N.min() >= 1
        and table.label_N.max() <= LABEL_MAX
    )


def _explained(lines: Iterator[tuple[int, list[str]]], kind: Kind, source: str, unit: str, reason: str) -> InputError:
    for number, fields in lines:
        rule = broken_rule(fields, kind)
        if rule is not None:
            return InputError(f"{source}, {unit} {number}: {rule}")
    return InputError(f"{source} cannot be read as {kind}: {reason}.")
