"""`stal-cli cache ls` and `info`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cache.store import Store
from cli.commands.cache_commands.text import find_set, of_split, size, table
from cli.ui.json_output import json_option, print_json
from stal_data.errors import StalError

if TYPE_CHECKING:
    from cache.spec import BackboneSpec


@click.command("ls")
@click.argument("store")
@of_split
@json_option
def list_sets(store: str, dataset: str | None, split: str | None, as_json: bool) -> None:
    """List the feature sets and proposals of STORE: what they were made of, coverage and size.

    \b
    Example:
      stal-cli cache ls store --split train
    """
    from cache.feature_store import describe_feature_set, feature_set_folders
    from cache.proposal_store import list_proposals

    opened = Store.open(store)
    sets, unreadable = [], []
    for folder in feature_set_folders(opened, dataset, split):
        try:
            sets.append(describe_feature_set(folder))
        except StalError as error:
            unreadable.append(f"{folder.parent.parent.name}/{folder.parent.name}/{folder.name}: {error}")
    found = list_proposals(opened, dataset, split)
    if as_json:
        print_json({"feature_sets": sets, "cannot_be_opened": unreadable, "proposals": found})
        return
    rows = [
        (
            f"{info.dataset}/{info.split}",
            info.id,
            info.spec.view,
            info.spec.dtype,
            ", ".join(map(_backbone, info.spec.backbones)),
            f"{info.num_done}/{info.num_rows}",
            size(info.num_bytes),
        )
        for info in sets
    ]
    table(("FEATURES", "ID", "VIEW", "DTYPE", "BACKBONES", "ROWS", "SIZE"), rows)
    for line in unreadable:
        click.echo(f"cannot be opened: {line}")
    click.echo()
    table(("PROPOSALS", "NAME", "SIZE"), [(f"{p.dataset}/{p.split}", p.name, size(p.num_bytes)) for p in found])


@click.command()
@click.argument("store")
@click.argument("set_id")
@of_split
@click.option("--all-missing", is_flag=True, help="Name every missing key frame, not only the first 20.")
def info(store: str, set_id: str, dataset: str | None, split: str | None, all_missing: bool) -> None:
    """Print one feature set of STORE as JSON: spec, shapes, size, and which key frames of the split are missing.

    \b
    Example:
      stal-cli cache info store 0f3a5c77d2e19b48 --split train
    """
    from cache.feature_store import FeatureManifest

    opened = Store.open(store)
    path = find_set(opened, set_id, dataset, split)
    manifest = FeatureManifest.read(path).to_attributes()
    click.echo(json.dumps({**manifest, **_coverage(opened, path, None if all_missing else 20)}, indent=2))


def _coverage(store: Store, path: Path, limit: int | None) -> dict[str, Any]:
    from cache.feature_store import describe_feature_set
    from cache.feature_store.manage.coverage import coverage_of

    described, found = describe_feature_set(path), coverage_of(store, path)
    coverage: dict[str, Any] = {"path": str(path), "num_bytes": described.num_bytes, "num_done": described.num_done}
    lists = {
        "missing": found.missing,
        "in_published_split_only": found.unknown_to_set,
        "in_set_only": found.unknown_to_split,
    }
    for name, keys in lists.items():
        coverage[f"num_{name}"] = None if keys is None else len(keys)
        if keys:
            coverage[name] = [str(key) for key in keys[:limit]]
    return coverage


def _backbone(spec: "BackboneSpec") -> str:
    return f"{spec.kind}:{spec.preset}@{spec.weights.removeprefix('sha256:')[:8] if spec.trained else spec.weights}"
