"""`stal-cli cache verify`: find damage, name the key frames, and say the command that computes them again."""

import shlex
from typing import TYPE_CHECKING

import click

from cli.cache_commands.text import names, of_split
from stal_data.errors import ConflictError, InputError, NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

    from cache.spec import FeatureSpec


@click.command()
@click.argument("store")
@of_split
@click.option(
    "--repair", is_flag=True, help="Mark damaged shards as not computed; precompute then computes just those."
)
def verify(store: str, dataset: str | None, split: str | None, repair: bool) -> None:
    """Read everything in STORE and check it against its checksums and digests.

    Names the key frames whose features are damaged, and the command that computes them again. Exit code 1 where
    anything is damaged.

    \b
    Example:
      stal-cli cache verify store --repair
    """
    from cache.feature_store import feature_set_folders
    from cache.proposal_store import list_proposals, read_proposals
    from cache.store import Store

    opened = Store.open(store)
    problems = []
    for folder in feature_set_folders(opened, dataset, split):
        problems += _verify_set(folder, store, repair)
    for proposals in list_proposals(opened, dataset, split):
        try:
            read_proposals(proposals.path)
            click.echo(f"{proposals.dataset}/{proposals.split}/{proposals.name}: proposals are sound")
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n  ".join([f"'{store}' is damaged.", *problems]))


def _verify_set(path: "Path", store: str, repair: bool) -> list[str]:
    """Check one set, print a line about it, and return what is wrong."""
    from cache.feature_store import DamagedError, describe_feature_set, reset_shard, verify_feature_set
    from cli.progress import counted

    name = f"{path.parent.parent.name}/{path.parent.name}/{path.name}"
    try:
        found = describe_feature_set(path)
        with counted(name, unit="rows") as progress:
            damaged = verify_feature_set(path, lambda done: progress(done, found.num_rows))
    except (DamagedError, ConflictError, NotFoundError) as error:  # not a disk or a bucket that does not answer
        click.echo(f"{name}: cannot be opened")
        return [f"{name}: {error}"]
    missing = found.num_rows - found.num_done
    click.echo(
        f"{name}: {found.num_done} rows checked, {len(damaged)} damaged shards"
        + (f", {missing} rows not computed yet" if missing else "")
    )
    if not damaged:
        return []
    if repair:
        for item in damaged:
            reset_shard(path, item.shard)
    lines = [f"{name}, shard {item.shard}: {names(item.key_frames)}: {item.reason}" for item in damaged]
    command = _precompute_command(found.split, store, found.spec)
    if repair:
        return [*lines, f"These shards are marked as not computed now. Compute them again: {command}"]
    return [*lines, f"Mark them as not computed with --repair, then compute them again: {command}"]


def _precompute_command(split: str, store: str, spec: "FeatureSpec") -> str:
    """Return the command that fills what a set lacks, as far as the set knows it; capitals are for the user."""
    words = ["stal-cli", "precompute", "DATASET", "--split", split, "--store", store]
    files = []
    for backbone in (spec.slowfast, spec.vit):
        if backbone is None:
            continue
        weights = backbone.weights
        if backbone.trained:
            weights = f"{backbone.kind.upper()}_WEIGHTS"
            files.append(f"{weights} is the file of the {backbone.preset} weights {backbone.weights}")
        words += [f"--{backbone.kind}", weights, f"--{backbone.kind}-preset", backbone.preset]
    words += ["--view", spec.view, "--dtype", spec.dtype]
    if spec.layout != "pooled":
        words += ["--layout", spec.layout]
    if spec.autocast != "none":
        words += ["--autocast", spec.autocast]
    if spec.compiled:
        words += ["--compile"]
    return shlex.join(words) + "".join(f"; {file}" for file in files) + "; DATASET is the folder of the data set"
