"""`stal-cli serve detector`."""

import asyncio
from pathlib import Path

import click

from cli.ui.detector_options import DetectorChoice, detector_options_with
from cli.ui.options import server_options
from cli.ui.params import Real
from detector_svc.service.freed_memory import keep_freed_memory
from svc_common.config import ServerConfig


@click.command()
@detector_options_with(
    click.option(
        "--weights",
        "detector_weights",
        type=click.Path(dir_okay=False, path_type=Path),
        required=True,
        help="Ultralytics checkpoint (.pt), or its export (.onnx, with the extra onnx).",
    )
)
@click.option("--kind", default="yolo", show_default=True, help="Detector that the weights are of.")
@click.option("--name", help="What proposals are filed under; default: the weight file's name.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:N.")
@click.option(
    "--data-root",
    type=click.Path(file_okay=False, path_type=Path),
    help="Let clients run data sets below this folder (detect --server-side).",
)
@click.option(
    "--max-batch", type=click.IntRange(1, 1024), default=8, show_default=True, help="Most frames in one batch."
)
@click.option("--max-delay-ms", type=Real(0, 10_000), default=5.0, show_default=True, help="Wait for a fuller batch.")
@click.option(
    "--max-streams", type=click.IntRange(1, 512), default=64, show_default=True, help="Clients' streams at once."
)
@server_options(default_port=50051)
def detector(
    server: ServerConfig,
    chosen_detector: DetectorChoice,
    kind: str,
    name: str | None,
    device: str,
    data_root: Path | None,
    max_batch: int,
    max_delay_ms: float,
    max_streams: int,
) -> None:
    """Find people in images with YOLO, until SIGTERM or Ctrl-C.

    The weights are chosen here and never by a client; nothing is downloaded.

    \b
    Examples:
      stal-cli serve detector --weights person.pt
      stal-cli serve detector --weights person.pt --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem \\
          --token-file token --data-root /data
    """
    keep_freed_memory()
    from detector_svc.detector_protocol import DetectorConfig
    from detector_svc.service.detector_service import DetectorService, DetectorServiceConfig
    from detector_svc.service.micro_batcher import BatcherConfig
    from svc_common.metrics import Metrics
    from svc_common.server import ServiceServer

    assert chosen_detector.weights is not None
    config = DetectorServiceConfig(
        kind=kind,
        detector=DetectorConfig(
            weights=chosen_detector.weights,
            **chosen_detector.settings(),
            device=device,
            name=name,
            gpu_pass=max_batch,
        ),
        batcher=BatcherConfig(max_batch=max_batch, max_delay_s=max_delay_ms / 1000, max_streams=max_streams),
        data_root=data_root,
    )
    metrics = Metrics()

    async def serve() -> None:
        await ServiceServer(server, [DetectorService(config, metrics)], name="detector", metrics=metrics).serve()

    asyncio.run(serve())
