"""`stal-cli cache prune`: delete feature sets, never one that is in use."""

import time

import click

from cache.store import Store
from cli.commands.cache_commands.text import of_split, size, table
from cli.ui.params import Real
from stal_data.errors import ConflictError

DAY_S = 86400


@click.command()
@click.argument("store")
@of_split
@click.option("--set", "set_ids", multiple=True, metavar="ID", help="This feature set; may be repeated.")
@click.option(
    "--incomplete", is_flag=True, help="Sets with key frames that are not computed, or that cannot be opened."
)
@click.option(
    "--older-than", type=Real(0, 100_000), metavar="DAYS", help="Sets to which nothing was written for so long."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def prune(
    store: str,
    dataset: str | None,
    split: str | None,
    set_ids: tuple[str, ...],
    incomplete: bool,
    older_than: float | None,
    yes: bool,
) -> None:
    """Delete the feature sets of STORE that fit at least one criterion, after showing and asking.

    A set that a running training, service or precompute has open stays. What killed processes left behind goes, too.

    \b
    Example:
      stal-cli cache prune store --incomplete
      stal-cli cache prune store --set 0f3a5c77d2e19b48 --split train --yes
    """
    if not (set_ids or incomplete or older_than is not None):
        raise click.UsageError("Say what to delete: --set ID, --incomplete or --older-than DAYS.")

    from cache.feature_store.manage.prune import delete_feature_set, prune_candidates

    found = prune_candidates(
        Store.open(store),
        dataset=dataset,
        split=split,
        set_ids=set_ids,
        incomplete=incomplete,
        written_before_s=None if older_than is None else time.time() - older_than * DAY_S,
    )
    if not found:
        click.echo("Nothing to delete.")
        return
    rows = [
        (f"{c.dataset}/{c.split}", c.set_id, size(c.num_bytes), f"in use, stays ({c.reason})" if c.in_use else c.reason)
        for c in found
    ]
    table(("FEATURES", "ID", "SIZE", "WHY"), rows)
    free = [candidate for candidate in found if not candidate.in_use]
    if not free:
        click.echo("All of them are in use.")
        return
    total = size(sum(candidate.num_bytes for candidate in free))
    if not yes:
        click.confirm(f"Delete {len(free)} with {total}?", abort=True)
    for candidate in free:
        try:
            delete_feature_set(candidate)
            click.echo(f"deleted {candidate.dataset}/{candidate.split}/{candidate.path.name}")
        except ConflictError as error:  # opened by somebody since the list was shown
            click.echo(f"kept {candidate.dataset}/{candidate.split}/{candidate.set_id}: {error}")
