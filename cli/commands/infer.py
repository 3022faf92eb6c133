"""`stal-cli infer`: videos in; a page that plays them with their people, annotated videos and predictions out."""

import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from cache.backbones.choice import BackboneChoice
from cli.ui.backbone_options import backbone_options
from cli.ui.detector_options import DetectorChoice, detector_options
from cli.ui.json_output import json_option, print_json
from cli.ui.options import client_settings, client_words, frames_option, wait_option
from cli.ui.params import Real
from cli.workflow.predictions import MIN_SCORE
from stal_data.errors import StalError
from svc_common.addresses import split_list
from svc_common.config import ClientConfig

if TYPE_CHECKING:
    from recognizer_svc.video.client import Sending

_WITH_RECOGNIZER = (
    *("videos", "run_id", "detector", "recognizer", "sending", "wait_s", "track", "fuse_confidence", "min_score"),
    *("keep_features", "no_video", "output", "as_json", "max_message_mb"),
    *("tls_ca", "tls_cert", "tls_key", "token_file", "server_name", "insecure"),
)
"""Parameters that say something where services do the work."""


@click.command()
@click.argument("videos", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Packed model that scores the actions ('models pack'); weights that it holds need not be named.",
)
@click.option(
    "--run", "run_id", help="Instead of --model: a run of the store, or of the recognizer; see `stal-cli runs list`."
)
@click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    help="Store for features and proposals, which holds the run; default with --model: OUTPUT/store.",
)
@backbone_options(required=False)
@click.option(
    "--detector",
    metavar="ADDRESSES",
    help="Running detector service instead of --detector-weights; as `detect` takes it, with the options below.",
)
@detector_options
@click.option(
    "--recognizer",
    metavar="ADDRESSES",
    help="Running recognizer service that computes features and scores, with backbones (serve recognizer --model); "
    "several with commas between. Needs --detector; no weights, no store.",
)
@frames_option
@click.option(
    "--keep-features",
    is_flag=True,
    help="Have features and people written to the recognizer's store, where 'predict' finds them.",
)
@wait_option
@click.option("--track", is_flag=True, help="Follow people between key frames (the extra track); see 'detect --track'.")
@click.option("--flip-average", is_flag=True, help="Average the scores with those of the mirrored videos.")
@click.option("--fuse-confidence", is_flag=True, help="Multiply each box's scores by the detector's confidence.")
@click.option(
    "--min-score",
    type=Real(0, 1),
    help=f"Minimum score shown. [default: the model's thresholds, and {MIN_SCORE} where it has none]",
)
@click.option("--no-video", is_flag=True, help="Write no annotated videos, which take longest to write.")
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder for the results."
)
@json_option
@client_settings
def infer(
    videos: tuple[Path, ...],
    model: Path | None,
    run_id: str | None,
    store: Path | None,
    backbones: list[BackboneChoice],
    detector: str | None,
    chosen_detector: DetectorChoice,
    recognizer: str | None,
    sending: "Sending",
    keep_features: bool,
    wait_s: float,
    track: bool,
    flip_average: bool,
    fuse_confidence: bool,
    min_score: float | None,
    no_video: bool,
    output: Path,
    as_json: bool,
    settings: dict[str, Any],
) -> None:
    """Say who does what at every second of VIDEOS, with a packed model or a trained run.

    Detects people through a detector service (a private one unless --detector names one), computes features into the
    store with the backbones that the head was trained on, and scores them with the head. The output folder, which
    must be new, empty, or of an earlier infer, gets index.html, which plays the videos with boxes and a timeline;
    predictions.csv, actions.jsonl and coco.json; with tracks actions.csv, which says when each person performs which
    action; and for each video a folder in videos/ with an annotated MP4 and WebVTT subtitles. A video that fails does
    not stop the others; the command then ends with exit code 1. Run again, it makes only what is missing or whose
    videos, weights or run have changed; features and proposals stay in the store, where other runs and output folders
    find them.

    With --recognizer, services detect and score, and this machine needs neither weights nor torch: it sends the
    frames, keeps the answers, and goes on behind them when it is run again.

    \b
    Examples:
      stal-cli infer street.mp4 --model first.stal --output street-out
      stal-cli infer street.mp4 --store store --run acar-1 --slowfast slowfast.safetensors \\
          --vit vit.safetensors --detector-weights person.pt --output street-out
      stal-cli infer street.mp4 --store store --run acar-1 --slowfast slowfast.safetensors \\
          --vit vit.safetensors --detector gpu1:50051 --tls-ca ca.pem --token-file token --output street-out
      stal-cli infer day/*.mp4 --store store --run acar-1 --slowfast slowfast.safetensors \\
          --vit vit.safetensors --detector-weights person.pt --no-video --output day-out
      stal-cli infer street.mp4 --detector gpu1:50051 --recognizer gpu2:50052,gpu3:50052 --run acar-1 \\
          --tls-ca ca.pem --token-file token --output street-out
    """
    if recognizer is not None:
        _refuse_options_of_this_machine()
        if detector is None:
            raise click.UsageError("--recognizer needs --detector, the addresses of a running detector service")
    elif _given("sending"):
        raise click.UsageError("--frames needs --recognizer; on this machine frames do not travel")
    elif keep_features:
        raise click.UsageError("--keep-features needs --recognizer; on this machine features stay in --store")
    elif (model is None) == (run_id is None):
        raise click.UsageError("give either --model DIR or --run RUN with --store DIR")
    elif model is None and store is None:
        raise click.UsageError("--run needs --store, the store that holds it")
    if str(store).startswith("s3:/"):
        raise click.UsageError(
            "--store must be a folder: infer keeps its stages in it. A run comes from a bucket with 'stal-cli predict'."
        )
    if detector is not None and chosen_detector.weights is not None:
        raise click.UsageError("give --detector-weights FILE or --detector HOST:PORT, not both")
    from cli.workflow.detect_stage import Detector
    from cli.workflow.inference import InferenceRequest, run_inference
    from cli.workflow.packed_parts import backbones_with, detector_with
    from cli.workflow.store_scoring import StoreScoring
    from cli.workflow.streaming.service_scoring import ServiceScoring
    from recognizer_svc.packed_models.description import read_packed_model

    reach = {"wait_s": wait_s, **settings}
    detectors, recognizers = (
        () if addresses is None else tuple(ClientConfig(address=name, **reach) for name in split_list(addresses))
        for addresses in (detector, recognizer)
    )
    packed = None if model is None else read_packed_model(model.resolve())
    chosen = chosen_detector if detectors else detector_with(packed, chosen_detector)
    kept_in = (store or output / "store").resolve()
    detecting = Detector(
        weights=None if detectors or chosen.weights is None else chosen.weights.resolve(),
        options=() if detectors else chosen.words(),
        services=detectors,
        connection=client_words(settings),
        track=track,
    )
    scoring: StoreScoring | ServiceScoring
    if recognizers:
        scoring = ServiceScoring(
            store=kept_in,
            detector=detecting,
            recognizers=recognizers,
            run_id=run_id or "",
            sending=sending,
            keep_features=keep_features,
            fuse_confidence=fuse_confidence,
        )
    else:
        scoring = StoreScoring(
            store=kept_in,
            detector=detecting,
            run_id=run_id or (packed.run_id if packed is not None else ""),
            model=packed,
            backbones=backbones_with(packed, backbones),
            flip_average=flip_average,
            fuse_confidence=fuse_confidence,
        )
    request = InferenceRequest(
        videos=tuple(video.resolve() for video in videos),
        scoring=scoring,
        min_score=MIN_SCORE if min_score is None else min_score,
        model_thresholds=min_score is None,
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


def _given(parameter: str) -> bool:
    return click.get_current_context().get_parameter_source(parameter) is not ParameterSource.DEFAULT


def _refuse_options_of_this_machine() -> None:
    for parameter in click.get_current_context().command.params:
        if parameter.name is None or parameter.name in _WITH_RECOGNIZER or not _given(parameter.name):
            continue
        option = parameter.opts[0]
        why = {
            "--flip-average": "the service scores the videos as they are, not mirrored",
        }.get(option, "the services hold the models, and --output holds what is kept")
        raise click.UsageError(f"{option} cannot be used with --recognizer: {why}. Leave out one of both.")
