"""`stal-cli infer`: videos in; a page that plays them with their people, annotated videos and predictions out."""

import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import click

from cli.ui.backbone_options import BackboneChoice, backbone_options
from cli.ui.json_output import json_option, print_json
from cli.ui.options import client_settings, client_words
from cli.ui.params import CONFIDENCE, IMAGE_SIZE, NUMBER_LIST, Real
from stal_data.errors import StalError
from svc_common.addresses import split_list
from svc_common.config import ClientConfig


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("videos", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--store", type=click.Path(file_okay=False, path_type=Path), required=True, help="Store that holds the run."
)
@click.option("--run", "run_id", required=True, help="Trained run that scores the actions; see `stal-cli runs list`.")
@backbone_options()
@click.option("--detector-weights", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="YOLO weights.")
@click.option(
    "--detector",
    metavar="ADDRESSES",
    help="Running detector service instead of --detector-weights; as `detect` takes it, with the options below.",
)
@click.option(
    "--image-size",
    type=IMAGE_SIZE,
    help="Detector input, height x width; default: what its weights were trained at.",
)
@click.option("--confidence", type=CONFIDENCE, default=0.3, show_default=True, help="Least box confidence.")
@click.option("--classes", type=NUMBER_LIST, help="Detector class ids that are people; default: those named person.")
@click.option("--flip-average", is_flag=True, help="Average the scores with those of the mirrored videos.")
@click.option("--fuse-confidence", is_flag=True, help="Multiply each box's scores by the detector's confidence.")
@click.option("--min-score", type=Real(0, 1), default=0.3, show_default=True, help="Least score shown.")
@click.option("--no-video", is_flag=True, help="Write no annotated videos, which take longest to write.")
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the results."
)
@json_option
@client_settings
def infer(
    videos: tuple[Path, ...],
    store: Path,
    run_id: str,
    backbones: list[BackboneChoice],
    detector_weights: Path | None,
    detector: str | None,
    image_size: tuple[int, int] | None,
    confidence: float,
    classes: tuple[int, ...] | None,
    flip_average: bool,
    fuse_confidence: bool,
    min_score: float,
    no_video: bool,
    output: Path,
    as_json: bool,
    settings: dict[str, Any],
) -> None:
    """Say who does what at every second of VIDEOS, with a trained run.

    Detects people through a detector service (a private one with --detector-weights), computes features into the
    store with the backbones that the run was trained on, and scores them with the run. The output folder, which must be
    new, empty, or of an earlier infer, gets index.html, which plays the videos with boxes and a timeline;
    predictions.csv, actions.jsonl and coco.json; and for each video a folder in videos/ with an annotated MP4 and
    WebVTT subtitles. A video that fails does not stop the others; the command then ends with exit code 1. Run again, it
    makes only what is missing or whose videos, weights or run have changed; features and proposals stay in the store,
    where other runs and output folders find them.

    \b
    Examples:
      stal-cli infer street.mp4 --store store --run acar-1 --slowfast slowfast.safetensors \\
          --vit vit.safetensors --detector-weights person.pt --output street-out
      stal-cli infer street.mp4 --store store --run acar-1 --slowfast slowfast.safetensors \\
          --vit vit.safetensors --detector gpu1:50051 --tls-ca ca.pem --token-file token --output street-out
      stal-cli infer day/*.mp4 --store store --run acar-1 --slowfast slowfast.safetensors \\
          --vit vit.safetensors --detector-weights person.pt --no-video --output day-out
    """
    if (detector is None) == (detector_weights is None):
        raise click.UsageError("give either --detector-weights FILE or --detector HOST:PORT")
    if str(store).startswith("s3:/"):
        raise click.UsageError(
            "--store must be a folder: infer keeps its stages in it. A run comes from a bucket with 'stal-cli predict'."
        )
    services = (
        () if detector is None else tuple(ClientConfig(address=item, **settings) for item in split_list(detector))
    )
    from cli.workflow.detect_stage import Detector
    from cli.workflow.inference import InferenceRequest, run_inference

    request = InferenceRequest(
        videos=tuple(video.resolve() for video in videos),
        store=store.resolve(),
        run_id=run_id,
        backbones=tuple(backbones),
        detector=Detector(
            weights=None if detector_weights is None else detector_weights.resolve(),
            options=()
            if detector_weights is None
            else (
                *(("--image-size", "{}x{}".format(*image_size)) if image_size is not None else ()),
                *("--confidence", str(confidence)),
                *(("--classes", ",".join(map(str, classes))) if classes is not None else ()),
            ),
            services=services,
            connection=client_words(settings),
        ),
        flip_average=flip_average,
        fuse_confidence=fuse_confidence,
        min_score=min_score,
        annotate=not no_video,
        output=output.resolve(),
    )
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        scored, failed = run_inference(request)
    page = output / "index.html"
    if as_json:
        done = [{"video": item.video, "file": item.path, "results": item.predictions.parent} for item in scored]
        print_json({"page": page if scored else None, "videos": done, "failed": failed})
    elif scored:
        click.echo(f"Videos with results: {len(scored)}. Open {page}; predictions and other files are beside it.")
    if failed:
        listed = "".join(f"\n{video}: {reason}" for video, reason in failed.items())
        raise StalError(f"{len(failed)} of {len(scored) + len(failed)} videos failed:{listed}")
