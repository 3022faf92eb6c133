"""`stal-cli dataset split | stats`: dividing a data set by video, and counting what is in it."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.ui.json_output import json_option, print_json
from cli.ui.params import SEED
from stal_data.files import write_atomically

if TYPE_CHECKING:
    from cli.workflow.stats_page import Section
    from stal_data.split_counts import SplitCounts

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command("split")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option(
    "--fractions", required=True, metavar="SPLIT=SHARE,...", help="Of the new splits, such as train=0.7,val=0.3."
)
@click.option("--from", "sources", multiple=True, help="Split to take; may be given again. Default: all.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Decides between equal videos.")
@click.option("--output", required=True, type=_FOLDER, help="New folder.")
@click.option("--name", required=True, help="Name of the new data set in the store.")
def split_command(dataset: Path, fractions: str, sources: tuple[str, ...], seed: int, output: Path, name: str) -> None:
    """Divide DATASET by video into new splits, each with its share of every class, rare classes first.

    No video is in two splits. Lines, exclusions and media stay as they are. Says which classes a split lacks, and why.

    \b
    Example:
      stal-cli dataset split street --fractions train=0.7,val=0.15,test=0.15 --output street-split --name street-split
    """
    from cli.workflow.stats_page import sections
    from stal_data.dataset import Dataset
    from stal_data.split_counts import count_dataset
    from stal_data.splitting import parse_fractions, split_dataset

    opened = Dataset.open(dataset)
    taken = tuple(dict.fromkeys(sources or opened.split_names))
    lacking = split_dataset(opened, output, name, parse_fractions(fractions), sources=taken, seed=seed)
    counted = count_dataset(Dataset.open(output))
    _print_sections(sections(counted)[:2], counted)
    for sentence in lacking:
        click.echo(sentence, err=True)
    click.echo(f"Wrote {output}.")


@click.command("stats")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="HTML page to write, or to replace.")
@json_option
def stats_command(dataset: Path, output: Path | None, as_json: bool) -> None:
    """Count classes, classes that occur together, people a key frame and box sizes, by split.

    \b
    Example:
      stal-cli dataset stats street --output street.html
    """
    from cli.workflow.stats_page import page_text, sections
    from stal_data.dataset import Dataset
    from stal_data.split_counts import count_dataset

    opened = Dataset.open(dataset)
    counted = count_dataset(opened)
    if output is not None:
        write_atomically(output, page_text(opened.name, counted))
    if as_json:
        print_json(list(map(asdict, counted)))
        return
    _print_sections(sections(counted), counted)
    if output is not None:
        click.echo(f"Wrote {output}.")


def _print_sections(sections: "Iterable[Section]", splits: "Sequence[SplitCounts]") -> None:
    from rich.table import Table

    from cli.ui.tables import add_row, print_table

    for section in sections:
        shown = Table("", title=section.title, title_justify="left")
        for split in splits:
            shown.add_column(split.counts.split, justify="right")
        for name, counts in section.rows:
            add_row(shown, name, *map(str, counts))
        print_table(shown)
        click.echo(section.note)
