"""Rows of predictions or ground truth as arrays, from a CSV file or a DataFrame."""

import hashlib
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stal_data.errors import InputError, did_you_mean
from stal_data.rows import BOX_SLACK
from stal_data.times import MAX_TIME_S, NOISE_ULPS
from stal_eval.columns import Table
from stal_eval.csv_file import NUMBERS, UnreadableError, digest_of, read_columns, read_lines
from stal_eval.extra import pd
from stal_eval.rules import LABEL_MAX, PERSON, Kind, broken_rule, columns_of


def load_table(rows: Path | str | pd.DataFrame, kind: Kind) -> Table:
    """Read a CSV file (gzip or plain, no header), or take a DataFrame with the columns of `rules`; check every row."""
    if isinstance(rows, pd.DataFrame):
        return _from_frame(rows, kind)
    path = Path(rows)
    try:
        columns = read_columns(path, kind)
    except UnreadableError as error:
        raise _explained(read_lines(path), kind, str(path), "line", str(error)) from None
    if not _is_valid(columns, kind):
        raise _explained(read_lines(path), kind, str(path), "line", "a value is out of range")
    return _build(columns, kind, source=str(path), digest=digest_of(path))


def _from_frame(frame: pd.DataFrame, kind: Kind) -> Table:
    source = f"the {kind} DataFrame"
    needed = [name for name in columns_of(kind) if name != "person"]
    given = [*needed, "person"] if kind == "predictions" and "person" in frame.columns else needed
    for name in needed:
        if name not in frame.columns:
            hint = did_you_mean(name, map(str, frame.columns))
            raise InputError(f"{source} has no column '{name}', but needs {', '.join(needed)}. {hint}")
    persons = frame["person"] if "person" in frame.columns else ""
    frame = frame[given]
    rows = ((position, [str(value) for value in row]) for position, row in enumerate(frame.itertuples(index=False)))
    try:
        columns = frame.astype({name: "float64" if name in NUMBERS else "str" for name in given})
    except (ValueError, TypeError, OverflowError) as error:
        raise _explained(rows, kind, source, "row", str(error)) from None
    digest = hashlib.sha256(pd.util.hash_pandas_object(columns, index=False).to_numpy().tobytes()).hexdigest()
    if "person" not in columns:
        columns["person"] = persons
    if not _is_valid(columns, kind):
        raise _explained(rows, kind, source, "row", "a value is out of range")
    return _build(columns, kind, source=source, digest=digest)


def _is_valid(columns: pd.DataFrame, kind: Kind) -> bool:
    """Tell whether every row keeps the rules of `broken_rule`, for all rows at once."""
    if columns.empty:
        return True
    x1, y1, x2, y2 = (columns[name].to_numpy() for name in ("x1", "y1", "x2", "y2"))
    # Comparisons with NaN are false, so each one also refuses NaN.
    inside = all(x.min() >= -BOX_SLACK and x.max() <= 1 + BOX_SLACK for x in (x1, y1, x2, y2))
    if kind == "predictions":
        ordered = (x1 <= x2).all() and (y1 <= y2).all() and np.isfinite(columns["score"].to_numpy()).all()
        ordered = ordered and _are_persons(columns["person"])
    else:
        ordered = (x1 < x2).all() and (y1 < y2).all()
    return bool(
        inside
        and ordered
        and "" not in set(columns["video"].unique())
        and _are_times(columns["timestamp"].to_numpy())
        and _are_labels(columns["label"].to_numpy())
    )


def _are_times(seconds_N: NDArray[np.float64]) -> bool:
    """Tell whether `parse_time` takes every one."""
    if not (seconds_N.min() >= 0 and seconds_N.max() <= MAX_TIME_S):
        return False
    off_N = np.abs(np.rint(seconds_N * 1000) / 1000 - seconds_N)
    return bool((off_N <= NOISE_ULPS * np.spacing(seconds_N)).all())


def _are_labels(values_N: NDArray[np.float64]) -> bool:
    return bool(values_N.min() >= 1 and values_N.max() <= LABEL_MAX and (values_N == np.floor(values_N)).all())


def _are_persons(texts: pd.Series) -> bool:
    return all(PERSON.fullmatch(text) for text in texts.unique())


def _person_ids(texts: pd.Series) -> NDArray[np.int64]:
    codes_N, distinct = texts.factorize()
    ids = np.array([int(text or -1) for text in distinct], dtype=np.int64)
    return np.take(ids, codes_N)


def _numbered(persons: pd.Series) -> NDArray[np.int64]:
    codes_N, distinct = persons.factorize()  # -1 where a DataFrame has none
    unknown = [place for place, person in enumerate(distinct) if str(person) in ("", "-1")]
    return np.where(np.isin(codes_N, unknown), -1, codes_N)


def _build(columns: pd.DataFrame, kind: Kind, *, source: str, digest: str) -> Table:
    video = columns["video"].astype("category").cat
    composed = [unicodedata.normalize("NFC", name) for name in video.categories]  # as data sets read them
    videos = sorted(set(composed))
    number_of = {name: number for number, name in enumerate(videos)}
    numbers = np.array([number_of[name] for name in composed], dtype=np.int64)
    return Table(
        source=source,
        digest=digest,
        videos=tuple(videos),
        video_N=numbers[video.codes.to_numpy()],
        time_ms_N=np.rint(columns["timestamp"].to_numpy() * 1000).astype(np.int64),
        boxes_N4=columns[["x1", "y1", "x2", "y2"]].to_numpy(),
        label_N=columns["label"].to_numpy().astype(np.int64),
        score_N=columns["score"].to_numpy() if kind == "predictions" else None,
        person_N=_person_ids(columns["person"]) if kind == "predictions" else _numbered(columns["person"]),
    )


def _explained(lines: Iterator[tuple[int, list[str]]], kind: Kind, source: str, unit: str, reason: str) -> InputError:
    for number, fields in lines:
        rule = broken_rule(fields, kind)
        if rule is not None:
            return InputError(f"{source}, {unit} {number}: {rule}")
    return InputError(f"{source} cannot be read as {kind}: {reason}.")
