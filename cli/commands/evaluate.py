"""`stal-cli eval`: capacity-swept mAP of a predictions file; `eval compare`: one result against another."""

from pathlib import Path
from typing import Any

import click

from cli.lazy import LazyGroup
from cli.ui.evaluation_recipe import recipe_option
from cli.ui.progress import counted
from stal_data.errors import InputError
from stal_data.files import write_together

_FILE = click.Path(path_type=Path)
_REQUIRED = ("predictions", "ground_truth", "label_map", "output")

# name -> (module:attribute, help line), as in cli/main.py.
_COMMANDS = {"compare": ("cli.commands.eval_compare:compare", "Two results class by class, with confidence intervals.")}


@click.group(
    name="eval",
    cls=LazyGroup,
    lazy=_COMMANDS,
    invoke_without_command=True,
    subcommand_metavar="[compare ...]",
)
@recipe_option("eval")
@click.option(
    "--predictions",
    type=_FILE,
    help="CSV, gzip or plain: video,timestamp,x1,y1,x2,y2,label id,score; boxes in [0,1].  [required]",
)
@click.option(
    "--ground-truth", type=_FILE, help="CSV, gzip or plain: video,timestamp,x1,y1,x2,y2,label id[,person].  [required]"
)
@click.option("--label-map", type=_FILE, help="The classes to score (.pbtxt).  [required]")
@click.option("--exclusions", type=_FILE, help="CSV: video,timestamp of key frames to leave out.")
@click.option(
    "--protocol",
    default="stal",
    show_default=True,
    metavar="stal|published|ava|pyslowfast|mmaction2",
    help="Compute it as another code base does; docs/evaluation.md has the differences.",
)
@click.option(
    "--capacities",
    help="Best-scored rows kept of each key frame: 50:2200 means 50 to 2199; 50,100 lists; 0 is no limit.  "
    "[default: the protocol's, 50:2200 for stal]",
)
@click.option(
    "--capacity-from",
    type=_FILE,
    metavar="METRICS.JSON",
    help="Report at the capacity that was chosen on another split, from its metrics.json.",
)
@click.option(
    "--exact",
    is_flag=True,
    help="Under another protocol than stal: compute every capacity of a sweep as that code base does, not only the "
    "best, the reported one and 50. Takes a pass over the rows for each.",
)
@click.option(
    "--iou",
    "ious",
    default="",
    metavar="IOU[,IOU...]|IOU:IOU",
    help="Also mAP at these IoUs: 0.5,0.75, or 0.5:0.95 for COCO's ten. The headline stays at 0.5.",
)
@click.option("--groups", is_flag=True, help="Also mAP by label type and by box size.")
@click.option("--confusion", is_flag=True, help="Also which class scores best on each ground-truth box.")
@click.option(
    "--tubes",
    metavar="moc|ucf101-24",
    help="Also video-mAP by their rules; predictions then have the person as column 9, ground truth as column 8.",
)
@click.option(
    "--segments",
    type=(_FILE, _FILE),
    metavar="PREDICTED ANNOTATED",
    help="Also segment-F1 of two CSV files with the header video,person,action,start_s,end_s,score.",
)
@click.option("--split", help="Name of the scored split, for the record.  [default: the ground truth's file name]")
@click.option("--dataset", help="Name of the data set, for the record.")
@click.option("--report", is_flag=True, help="Write OUTPUT/report.html too: a page that opens from disk.")
@click.option(
    "--frames",
    type=_FILE,
    metavar="DATASET",
    help="Data set folder; the report shows its key frames with the most errors.  [implies --report]",
)
@click.option("--output", type=_FILE, help="Folder for metrics.json and matches.npz.  [required]")
@click.pass_context
def evaluate(
    ctx: click.Context,
    /,
    predictions: Path,
    ground_truth: Path,
    label_map: Path,
    exclusions: Path | None,
    protocol: str,
    capacities: str | None,
    capacity_from: Path | None,
    exact: bool,
    split: str | None,
    dataset: str | None,
    report: bool,
    frames: Path | None,
    output: Path,
    **figures: Any,
) -> None:
    """Score a predictions file: mAP at IoU 0.5 at every capacity, written to OUTPUT/metrics.json.

    \b
    Examples:
      stal-cli eval --predictions predictions.csv --ground-truth data/annotations/test_gt.csv \\
        --label-map data/annotations/list_action.pbtxt --output results --report --frames data
      stal-cli eval ... --iou 0.5:0.95 --groups --confusion --tubes moc --report
      stal-cli eval compare results other-results
    """
    if ctx.invoked_subcommand is not None:
        return
    _require(ctx)
    from cli.ui.eval_tables import print_result
    from stal_eval.chosen_capacity import read_choice
    from stal_eval.protocol import choose_protocol
    from stal_eval.requested import Requested

    # What costs nothing to check comes before reading and scoring.
    chosen = choose_protocol(protocol, capacities=capacities)
    choice = None if capacity_from is None else read_choice(capacity_from)
    requested = Requested(**figures)
    if frames is not None:
        from stal_data.dataset import Dataset

        Dataset.open(frames)
    _make_folder(output)
    from stal_eval.preparation import prepare
    from stal_eval.report import REPORT_FILE, is_report, report_text
    from stal_eval.result import METRICS_FILE
    from stal_eval.scoring import score
    from stal_eval.stored import MATCHES_FILE, matches_content

    prepared = prepare(
        predictions, ground_truth, label_map, protocol=chosen, exclusions=exclusions, split=split, dataset=dataset
    )
    if exact:
        with counted("exact sweep", unit="capacities") as progress:
            result = score(prepared, capacity_from=choice, exact=True, requested=requested, progress=progress)
    else:
        result = score(prepared, capacity_from=choice, requested=requested)
    contents: dict[Path, bytes | str] = {
        output / MATCHES_FILE: matches_content(prepared, result),
        output / METRICS_FILE: result.metrics_text(),
    }
    page = output / REPORT_FILE
    if report or frames is not None:
        contents[page] = report_text(result, title=predictions.name, frames=frames)
    write_together(contents)
    print_result(result)
    click.echo(f"Wrote {output / METRICS_FILE}.")
    if page in contents:
        click.echo(f"Wrote {page}.")
    elif page.is_file() and is_report(page):
        page.unlink()
        click.echo(f"Removed {page}, which showed an earlier result; --report writes it anew.")


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output is {path}, but no folder can be made there: {error}.") from None


def _require(ctx: click.Context) -> None:
    """The options are required unless a subcommand runs, which click cannot say."""
    for param in ctx.command.params:
        if param.name in _REQUIRED and ctx.params[param.name] is None:
            raise click.MissingParameter(ctx=ctx, param=param)
