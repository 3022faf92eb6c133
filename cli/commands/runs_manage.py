"""`stal-cli runs tag` and `rm`: what is done with runs that are there."""

import click

from cache.store import Store

STORE = click.option("--store", "store_url", required=True, help="Folder or s3:// URL of the store.")


@click.command()
@click.argument("run_id", metavar="RUN")
@click.argument("tags", nargs=-1, required=True, metavar="TAG...")
@STORE
@click.option("--remove", is_flag=True, help="Take the tags away.")
def tag(run_id: str, tags: tuple[str, ...], store_url: str, remove: bool) -> None:
    """Give a run tags; 'runs list' shows them, and 'runs list --tag TAG' only the runs that have one.

    \b
    Examples:
      stal-cli runs tag acar-1 baseline paper --store store
      stal-cli runs tag acar-1 paper --remove --store store
    """
    from recognizer_svc.runs.store import RunStore
    from recognizer_svc.runs.tags import change_tags

    runs = RunStore.of(Store.open(store_url))
    left = change_tags(runs, run_id, remove=tags) if remove else change_tags(runs, run_id, add=tags)
    click.echo(f"{run_id}: {', '.join(left) or 'no tags'}")


@click.command("rm")
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN...")
@STORE
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove(run_ids: tuple[str, ...], store_url: str, yes: bool) -> None:
    """Delete runs with all their checkpoints, after asking; in a bucket, too.

    A run that is in training stays, and one whose head a service or program on this machine has loaded
    ('models list').

    \b
    Example:
      stal-cli runs rm first-try second-try --store store
    """
    from recognizer_svc.runs.removing import remove_run
    from recognizer_svc.runs.store import RunStore

    store = Store.open(store_url)
    runs = RunStore.of(store)
    for run_id in run_ids:
        runs.find(run_id)  # a typing mistake shows before anything goes
    if not yes:
        click.confirm(f"Delete {', '.join(run_ids)} from {store.name}?", abort=True)
    for run_id in dict.fromkeys(run_ids):
        remove_run(runs, run_id)
        click.echo(f"deleted {run_id}")
