"""`stal-cli cache diff`: how two feature sets differ."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.commands.cache_commands.text import names
from cli.ui.json_output import json_option, print_json

if TYPE_CHECKING:
    from cache.feature_store.manage.diff import SetDifference

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.argument("a", type=_FOLDER)
@click.argument("b", type=_FOLDER)
@json_option
def diff(a: Path, b: Path, as_json: bool) -> None:
    """Compare the feature sets in the folders A and B: spec, key frames, and rows by their digests.

    Rows of one spec that were computed with other threads, batches or processors differ by the order of sums: at most
    1e-5 of the largest value, in float16 one step more. They count as equal and are named. Exit code 1 where the sets
    differ. `cache info` prints a set's folder.

    \b
    Example:
      stal-cli cache diff store/features/street/train/0f3a5c77d2e19b48 old/features/street/train/0f3a5c77d2e19b48
    """
    from cache.feature_store.manage.diff import diff_feature_sets

    found = diff_feature_sets(a.absolute(), b.absolute())
    if as_json:
        print_json(found)
    else:
        _print(found)
    if not found.same:
        raise click.exceptions.Exit(1)


def _print(found: "SetDifference") -> None:
    for line in found.spec:
        click.echo(f"spec {line}")
    for text, keys in (
        ("only in A", found.only_in_a),
        ("only in B", found.only_in_b),
        ("not computed in one of them", found.not_computed),
        ("other window or frames", found.other_media),
        ("different rows", found.different),
        ("rows equal up to the order of sums", found.rounded),
    ):
        if keys:
            click.echo(f"{text}: {len(keys)}: {names(keys)}")
    click.echo(f"equal rows: {found.equal}")
