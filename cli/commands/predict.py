"""`stal-cli predict`: scores of a split as a CSV file, by this process or a recognizer service."""

import asyncio
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.ui.evaluation_recipe import recipe_option
from cli.ui.options import client_options
from cli.ui.progress import counted
from cli.ui.recognizer import Recognizer, recognizer_at
from cli.ui.staging_options import StageOptions, stage_options
from stal_data.amounts import amount
from stal_data.errors import InputError, StalError
from svc_common.config import ClientConfig

if TYPE_CHECKING:
    from protos.generated import recognizer_pb2 as pb


class IncompleteError(StalError):
    """The answer ended early."""


class BoxSourceType(click.ParamType[tuple[str, str]]):
    """`ground-truth`, `proposals` or `proposals:NAME`; the value is (kind, name)."""

    name = "ground-truth|proposals[:NAME]"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:  # noqa: ARG002
        if isinstance(value, tuple):
            return value
        from recognizer_svc.scoring.queries import parse_boxes

        try:
            return parse_boxes(str(value))
        except InputError as error:
            self.fail(str(error))

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:  # noqa: ARG002
        return "Give ground-truth, proposals, or proposals:NAME (as 'detect --name' filed them)."


@click.command()
@recipe_option("predict")
@click.option("--run", "run_id", required=True, help="Trained run; 'stal-cli runs list' shows them.")
@click.option("--dataset", required=True, help="Data set of the store.")
@click.option("--split", required=True, help="Its split; features must be cached.")
@click.option("--boxes", type=BoxSourceType(), required=True, help="Whom to score.")
@click.option("--store", "store_url", help="Folder or s3:// URL of the store; used without --recognizer.")
@stage_options
@click.option(
    "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="CSV to write, or to replace."
)
@click.option(
    "--checkpoint", type=click.Choice(["best", "latest"]), help="Default: best where the run keeps it, else latest."
)
@click.option(
    "--layout",
    type=click.Choice(["key_frames", "rows"]),
    default="key_frames",
    show_default=True,
    help="rows: as published, repeated once for each annotation row, annotated people alone.",
)
@click.option(
    "--flip-average", is_flag=True, help="Average with the scores on the mirrored features (precompute --view hflip)."
)
@click.option("--fuse-confidence", is_flag=True, help="Multiply each box's scores by the detector's confidence.")
@click.option("--feature-set", help="Id of the features; needed only where several fit.")
@client_options("recognizer", required=False)
def predict(
    client: ClientConfig | None,
    run_id: str,
    dataset: str,
    split: str,
    boxes: tuple[str, str],
    store_url: str | None,
    stage: StageOptions,
    output: Path,
    checkpoint: str | None,
    layout: str,
    flip_average: bool,
    fuse_confidence: bool,
    feature_set: str | None,
) -> None:
    """Score every person of a split and write video,time,x1,y1,x2,y2,label id,score, a row per box and class.

    \b
    Examples:
      stal-cli predict --run first --dataset synthetic --split test --boxes ground-truth \\
          --store store --output predictions.csv
      stal-cli predict --run first --dataset synthetic --split test --boxes proposals:person \\
          --recognizer 127.0.0.1:50052 --output predictions.csv
      stal-cli predict --recipe published-detected --run published --store store --output predictions.csv
    """
    from protos.generated import recognizer_pb2 as pb

    kind, name = boxes
    if fuse_confidence and kind == "ground-truth":
        raise click.UsageError("--fuse-confidence needs --boxes proposals; ground-truth boxes have no confidence")
    request = pb.PredictRequest(
        run_id=run_id,
        checkpoint=checkpoint or "",
        dataset=dataset,
        split=split,
        ground_truth=pb.GroundTruthBoxes() if kind == "ground-truth" else None,
        proposals=pb.ProposedBoxes(name=name, fuse_confidence=fuse_confidence) if kind == "proposals" else None,
        feature_set=feature_set or "",
        layout=pb.LAYOUT_ROWS if layout == "rows" else pb.LAYOUT_KEY_FRAMES,
        flip_average=flip_average,
    )
    recognizer = recognizer_at(client, store_url, stage=stage)
    num_key_frames, num_boxes = asyncio.run(write_predictions(recognizer, request, output))
    click.echo(f"{output}: {amount(num_boxes, 'person', 'people')} in {amount(num_key_frames, 'key frame')}")


async def write_predictions(recognizer: Recognizer, request: "pb.PredictRequest", output: Path) -> tuple[int, int]:
    """Stream the scores of a split into a file; return the numbers of key frames and people."""
    from recognizer_svc.client import SplitScores
    from recognizer_svc.scoring.predictions_csv import writing_predictions

    async with recognizer, aclosing(recognizer.predict(request)) as answers:
        head = await anext(answers)
        assert isinstance(head, SplitScores)  # it comes first
        for note in head.notes:
            click.echo(f"Note: {note}", err=True)
        with ExitStack() as stack:
            writer = stack.enter_context(writing_predictions(output, head.label_ids))
            show = stack.enter_context(counted("predict", unit="key frames"))
            async for item in answers:
                assert not isinstance(item, SplitScores)
                writer.write(item)
                show(writer.num_key_frames, head.num_key_frames)
            if writer.num_key_frames != head.num_key_frames:
                raise IncompleteError(
                    f"The recognizer sent {writer.num_key_frames} of {head.num_key_frames} key frames; run it again."
                )
    return writer.num_key_frames, writer.num_boxes
