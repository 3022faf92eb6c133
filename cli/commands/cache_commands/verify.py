"""`stal-cli cache verify`: find damage, name the key frames, and say the command that computes them again."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import click

from cache.backbones import backbone_of
from cache.spec import FeatureSpec
from cache.store import Store
from cli.commands.cache_commands.text import SHOWN, names, of_split
from cli.commands.cache_commands.verify_files import Say, verify_runs, verify_tables, verify_weights
from cli.ui.json_output import json_option, print_json
from cli.ui.progress import counted
from stal_data.amounts import amount
from stal_data.errors import ConflictError, InputError, NotFoundError


@click.command()
@click.argument("store")
@of_split
@click.option(
    "--repair",
    is_flag=True,
    help="Mark damaged shards as not computed; precompute then computes just those. Add a checksum to splits and "
    "proposals of earlier versions, which have none.",
)
@click.option(
    "--all-key-frames", is_flag=True, help=f"Name every key frame, not only the first {SHOWN} of a shard or a set."
)
@json_option
def verify(
    store: str, dataset: str | None, split: str | None, repair: bool, all_key_frames: bool, as_json: bool
) -> None:
    """Read everything in STORE and check it against its checksums and digests.

    That is features, splits and proposals; without --dataset and --split also runs and weights.

    Names the key frames whose features are damaged or not computed, and the command that computes the damaged ones
    again. Exit code 1 where anything is damaged. A shard that a running precompute holds is not repaired; all others
    are.

    \b
    Example:
      stal-cli cache verify store --repair
    """
    from cache.feature_store import feature_set_folders

    opened = Store.open(store)
    checked, problems = list[str](), list[str]()
    say = checked.append if as_json else click.echo
    for folder in feature_set_folders(opened, dataset, split):
        problems += _verify_set(folder, store, say, repair=repair, every=all_key_frames)
    problems += verify_tables(opened, dataset, split, say, repair=repair)
    if dataset is None and split is None:
        problems += verify_runs(opened, say)
        problems += verify_weights(opened, say)
    if as_json:
        print_json({"checked": checked, "problems": problems})
    if problems:
        raise InputError("\n  ".join([f"'{store}' is damaged.", *problems]))


def _verify_set(path: Path, store: str, say: Say, *, repair: bool, every: bool) -> list[str]:
    from cache.feature_store import DamagedError, FeatureSet, verify_feature_set

    name = f"{path.parent.parent.name}/{path.parent.name}/{path.name}"
    try:
        features = FeatureSet(path)
        manifest, marks = features.manifest, features.marks()
        with counted(name, unit="rows") as progress:
            damaged = verify_feature_set(path, lambda done: progress(done, manifest.num_rows))
        missing = [
            features.key_frames[row]
            for row in range(manifest.num_rows)
            if not marks.done_K[row] and row // manifest.rows_per_shard not in marks.damaged
        ]
    except (DamagedError, ConflictError, NotFoundError) as error:  # not a disk or a bucket that does not answer
        say(f"{name}: cannot be opened")
        return [f"{name}: {error}"]
    say(
        f"{name}: {amount(int(marks.done_K.sum()), 'row')} checked, {amount(len(damaged), 'damaged shard')}"
        + (f", {amount(len(missing), 'row')} not computed yet: {names(missing, every=every)}" if missing else "")
    )
    if not damaged:
        return []
    lines = [f"{name}, shard {item.shard}: {names(item.key_frames, every=every)}: {item.reason}" for item in damaged]
    command = _precompute_command(features.split, store, features.spec)
    if not repair:
        return [*lines, f"Mark them as not computed with --repair, then compute them again: {command}"]
    held = _give_back(path, [item.shard for item in damaged])
    if len(held) < len(damaged):
        which = "The other shards" if held else "These shards"
        held.append(f"{which} are marked as not computed now. Compute them again: {command}")
    return [*lines, *held]


def _give_back(path: Path, shards: Sequence[int]) -> list[str]:
    """Mark the shards as not computed; return a line about each that somebody else holds, and that stays."""
    from cache.feature_store import reset_shard

    held = []
    for shard in shards:
        try:
            reset_shard(path, shard)
        except ConflictError as error:
            held.append(f"Not repaired: {error}")
    return held


def _precompute_command(split: str, store: str, spec: FeatureSpec) -> str:
    """Return the command that fills what a set lacks, as far as the set knows it; capitals are for the user."""
    words = ["stal-cli", "precompute", "DATASET", "--split", split, "--store", store]
    files = []
    for backbone in spec.backbones:
        weights = backbone.weights
        if backbone.trained:
            weights = f"{backbone.kind.upper()}_WEIGHTS"
            files.append(f"{weights} is the file of the {backbone.preset} weights {backbone.weights}")
        words += ["--backbone", f"{backbone.kind}:{backbone.preset}={weights}"]
        for name, kept in backbone.statistics.items():
            if kept != backbone_of(backbone.kind).maps[name]:
                words += ["--statistics", f"{name}={','.join(kept)}"]
    words += ["--view", spec.view, "--dtype", spec.dtype]
    if spec.autocast != "none":
        words += ["--autocast", spec.autocast]
    if spec.compiled:
        words += ["--compile"]
    return shlex.join(words) + "".join(f"; {file}" for file in files) + "; DATASET is the folder of the data set"
