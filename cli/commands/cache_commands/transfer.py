"""`stal-cli cache copy`, `export` and `import`: feature sets to other places and back."""

from pathlib import Path

import click

from cache.store import Store
from cli.commands.cache_commands.text import find_set, of_split
from cli.ui.progress import counted
from stal_data.amounts import amount
from stal_data.errors import NotFoundError


@click.command()
@click.argument("source")
@click.argument("target")
@of_split
@click.option("--set", "set_id", metavar="ID", help="Only this feature set.")
def copy(source: str, target: str, dataset: str | None, split: str | None, set_id: str | None) -> None:
    """Copy feature sets and their published splits from the store SOURCE to the store TARGET.

    Rows are verified on the way and compared by digest at the end. Stopped, the same command goes on where it was.

    \b
    Example:
      stal-cli cache copy store other-store --split train
    """
    from cache.feature_store import feature_set_folders
    from cache.feature_store.manage.copy import copy_feature_set, copy_split

    origin = Store.open(source)
    folders = feature_set_folders(origin, dataset, split)
    chosen = folders if set_id is None else [folder for folder in folders if folder.name == set_id]
    if not chosen:
        raise NotFoundError(f"'{source}' has no such feature set; see 'stal-cli cache ls {source}'.")
    opened = Store.open(target, create=True)
    for folder in chosen:
        place = (folder.parent.parent.name, folder.parent.name)
        name = "/".join((*place, folder.name))
        published = copy_split(origin, opened, *place)
        with counted(name, unit="rows") as progress:
            result = copy_feature_set(folder, opened, progress)
        click.echo(
            f"{name}: {amount(result.copied, 'row')} copied, {result.present} there before"
            + (f", {result.missing} are not computed in the source" if result.missing else "")
            + ("" if published else "; the source publishes no split")
        )


@click.command()
@click.argument("store")
@click.argument("set_id")
@of_split
@click.option("--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The file to write.")
def export(store: str, set_id: str, dataset: str | None, split: str | None, output: Path) -> None:
    """Write one feature set of STORE, its index and its digests to one HDF5 file.

    \b
    Example:
      stal-cli cache export store 0f3a5c77d2e19b48 --split train --output train.h5
    """
    from cache.feature_store.manage.hdf5 import export_hdf5

    path = find_set(Store.open(store), set_id, dataset, split)
    with counted("export", unit="rows") as progress:
        rows = export_hdf5(path, output, progress)
    click.echo(f"{output}: {amount(rows, 'row')}")


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("store")
def import_(file: Path, store: str) -> None:
    """Read a feature set from an exported FILE into STORE, checking every row against its digest.

    \b
    Example:
      stal-cli cache import train.h5 store
    """
    from cache.feature_store import describe_feature_set
    from cache.feature_store.manage.hdf5 import import_hdf5

    with counted("import", unit="rows") as progress:
        # The first write makes the store, so that a file that is no export leaves none.
        path = import_hdf5(file, Store.open(store, may_lack=True), progress)
    found = describe_feature_set(path)
    click.echo(f"{found.dataset}/{found.split}/{found.id}: {found.num_done} of {found.num_rows} rows")
