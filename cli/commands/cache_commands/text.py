"""What the commands of `stal-cli cache` print alike, and how they find the set that is meant."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cache.store import Store
from stal_data.errors import InputError, NotFoundError, did_you_mean

if TYPE_CHECKING:
    from stal_data.keyframes import KeyFrame

SHOWN = 10  # key frames that are named before the rest is counted

_DATASET = click.option("--dataset", help="Only this data set.")
_SPLIT = click.option("--split", help="Only this split.")


def of_split(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --dataset and --split."""
    return _DATASET(_SPLIT(command))


def find_set(store: Store, set_id: str, dataset: str | None, split: str | None) -> Path:
    """Return the folder of the one set with this id; the same spec has one id on every split."""
    from cache.feature_store import feature_set_folders

    folders = feature_set_folders(store, dataset, split)
    found = [folder for folder in folders if folder.name == set_id]
    if not found:
        known = {folder.name for folder in folders}
        raise NotFoundError(f"'{store.name}' has no feature set '{set_id}'. {did_you_mean(set_id, known)}")
    if len(found) > 1:
        places = ", ".join(f"{folder.parent.parent.name}/{folder.parent.name}" for folder in found)
        raise InputError(f"Feature set '{set_id}' is there for {places}; choose with --dataset and --split.")
    return found[0]


def size(num_bytes: int) -> str:
    if num_bytes < 1e6:
        return f"{num_bytes / 1e3:.0f} kB"
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:.2f} GB"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def names(keys: "Sequence[KeyFrame]", *, every: bool = False) -> str:
    """Return the first few key frames, and how many more there are; or every one."""
    if every or len(keys) <= SHOWN:
        return "; ".join(map(str, keys))
    return "; ".join(map(str, keys[:SHOWN])) + f" and {len(keys) - SHOWN} more"
