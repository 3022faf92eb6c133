"""`stal-cli cache`: list, describe and check what a store holds."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from stal_data.errors import InputError, NotFoundError, did_you_mean

if TYPE_CHECKING:
    from cache.feature_store import FeatureSetInfo
    from cache.spec import BackboneSpec


@click.group()
def cache() -> None:
    """List and check what is in the cache.

    \b
    Example:
      stal-cli cache ls store
      stal-cli cache verify store --repair
    """


@cache.command("ls")
@click.argument("store")
@click.option("--dataset", help="Only this data set.")
@click.option("--split", help="Only this split.")
def list_sets(store: str, dataset: str | None, split: str | None) -> None:
    """List the feature sets and proposals of STORE: what they were made of, coverage and size.

    \b
    Example:
      stal-cli cache ls store --split train
    """
    from cache.feature_store import list_feature_sets
    from cache.proposal_store import list_proposals
    from cache.store import Store

    opened = Store.open(store)
    rows = [
        (
            f"{info.dataset}/{info.split}",
            info.id,
            info.spec.view,
            info.spec.dtype,
            _backbone(info.spec.slowfast),
            _backbone(info.spec.vit),
            f"{info.num_done}/{info.num_rows}",
            _size(info.num_bytes),
        )
        for info in list_feature_sets(opened, dataset, split)
    ]
    _table(("FEATURES", "ID", "VIEW", "DTYPE", "SLOWFAST", "VIT", "ROWS", "SIZE"), rows)
    click.echo()
    found = list_proposals(opened, dataset, split)
    _table(("PROPOSALS", "NAME", "SIZE"), [(f"{p.dataset}/{p.split}", p.name, _size(p.num_bytes)) for p in found])


@cache.command()
@click.argument("store")
@click.argument("set_id")
def info(store: str, set_id: str) -> None:
    """Print one feature set of STORE as JSON: spec, shapes, coverage and size.

    \b
    Example:
      stal-cli cache info store 0f3a5c77d2e19b48
    """
    from cache.feature_store import FeatureManifest, list_feature_sets
    from cache.store import Store

    sets = list_feature_sets(Store.open(store))
    # The same spec has one id on every split.
    chosen = [found for found in sets if found.id == set_id]
    if not chosen:
        raise NotFoundError(f"'{store}' has no feature set '{set_id}'. {did_you_mean(set_id, {s.id for s in sets})}")
    for found in chosen:
        coverage = {"num_done": found.num_done, "num_bytes": found.num_bytes, "path": str(found.path)}
        click.echo(json.dumps({**FeatureManifest.read(found.path).to_attributes(), **coverage}, indent=2))


@cache.command()
@click.argument("store")
@click.option("--dataset", help="Only this data set.")
@click.option("--split", help="Only this split.")
@click.option(
    "--repair", is_flag=True, help="Mark the rows of damaged shards as not done; precompute fills them again."
)
def verify(store: str, dataset: str | None, split: str | None, repair: bool) -> None:
    """Read everything in STORE and check it against its checksums and digests.

    \b
    Example:
      stal-cli cache verify store --repair
    """
    from cache.feature_store import list_feature_sets
    from cache.proposal_store import list_proposals, read_proposals
    from cache.store import Store

    opened = Store.open(store)
    problems = [
        problem for found in list_feature_sets(opened, dataset, split) for problem in _verify_set(found, repair)
    ]
    for proposals in list_proposals(opened, dataset, split):
        try:
            read_proposals(proposals.path)
            click.echo(f"{proposals.dataset}/{proposals.split}/{proposals.name}: proposals are sound")
        except InputError as error:
            problems.append(str(error))
    if problems:
        done = "Damaged shards were marked as not done: run precompute again." if repair else "Repair with --repair."
        raise InputError("\n  ".join([f"'{store}' is damaged. {done}", *problems]))


def _verify_set(found: "FeatureSetInfo", repair: bool) -> list[str]:
    """Check one set, print a line about it, and return what is wrong."""
    from cache.feature_store import reset_shard, verify_feature_set

    damaged = verify_feature_set(found.path)
    if repair:
        for item in damaged:
            reset_shard(found.path, item.shard)
    missing = found.num_rows - found.num_done
    click.echo(
        f"{found.dataset}/{found.split}/{found.id}: {found.num_done} rows checked, {len(damaged)} damaged shards"
        + (f", {missing} rows not computed yet" if missing else "")
    )
    return [item.reason for item in damaged]


def _backbone(spec: "BackboneSpec | None") -> str:
    if spec is None:
        return "-"
    return f"{spec.preset}@{spec.weights.removeprefix('sha256:')[:8] if spec.trained else spec.weights}"


def _size(num_bytes: int) -> str:
    if num_bytes < 1e6:
        return f"{num_bytes / 1e3:.0f} kB"
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:.2f} GB"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
