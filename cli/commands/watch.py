"""`stal-cli watch`: who does what before a camera, a second or two after it happens."""

import asyncio
import logging
from typing import Any

import click

from cli.ui.options import client_settings, frames_option, wait_option
from cli.ui.params import LONGEST_S, Real
from cli.workflow.predictions import MIN_SCORE
from cli.workflow.streaming.outputs import JsonLines, Output, Webhook
from svc_common.addresses import split_list
from svc_common.config import ClientConfig


@click.command()
@click.argument("source", envvar="STAL_SOURCE")
@click.option(
    "--detector",
    "detectors",
    metavar="ADDRESSES",
    required=True,
    envvar="STAL_DETECTOR",
    show_envvar=True,
    help="Running detector service, HOST:PORT; several with commas between.",
)
@click.option(
    "--recognizer",
    "recognizers",
    metavar="ADDRESSES",
    required=True,
    envvar="STAL_RECOGNIZER",
    show_envvar=True,
    help="Running recognizer service that holds backbones, HOST:PORT; several with commas between.",
)
@click.option("--run", "run_id", default="", help="Run of the recognizer's store that scores; default: its only one.")
@click.option("--checkpoint", type=click.Choice(["best", "latest"]), help="Default: best where there is one.")
@click.option(
    "--every", "every_s", type=Real(0.04, 60), default=1.0, show_default=True, help="Seconds between key frames."
)
@click.option(
    "--max-lag-s",
    type=Real(0, 10),
    default=2.0,
    show_default=True,
    help="How long an answer may be due; then key frames are dropped until it is there.",
)
@click.option(
    "--min-score",
    type=Real(0, 1),
    help=f"Minimum score of actions shown. [default: the model's thresholds, and {MIN_SCORE} where it has none]",
)
@click.option(
    "--give-up-after-s",
    type=Real(0, LONGEST_S),
    default=300.0,
    show_default=True,
    help="End with an error when the source has sent no picture for so long.",
)
@frames_option
@click.option(
    "--webhook", metavar="URL", envvar="STAL_WEBHOOK", show_envvar=True, help="POST each key frame as JSON to this URL."
)
@click.option(
    "--mqtt",
    metavar="URL",
    envvar="STAL_MQTT",
    show_envvar=True,
    help="Publish each key frame at mqtt://[USER:PASSWORD@]HOST[:PORT]/TOPIC, or mqtts:// (the extra mqtt).",
)
@click.option(
    "--page",
    "page_port",
    is_flag=False,
    flag_value=8765,
    type=click.IntRange(0, 65535),
    metavar="[PORT]",
    help="Show a live page on this machine at PORT (8765; 0 takes a free one).",
)
@wait_option
@client_settings
def watch(
    source: str,
    detectors: str,
    recognizers: str,
    wait_s: float,
    settings: dict[str, Any],
    checkpoint: str | None,
    every_s: float,
    webhook: str | None,
    mqtt: str | None,
    page_port: int | None,
    **live_settings: Any,
) -> None:
    """Recognize actions live in SOURCE: a camera (/dev/video0), rtsp://, http(s)://, or a file at its own pace.

    Writes a line of JSON for each key frame to standard output: when it was, who is where, doing what, how long the
    answer took. Where the services cannot keep up, whole key frames are dropped and counted. A source that is cut is
    opened again. Messages go to stderr; Ctrl-C or SIGTERM ends the command with a summary.

    \b
    Examples:
      stal-cli watch rtsp://camera/stream --detector 127.0.0.1:50051 --recognizer 127.0.0.1:50052 --run acar-1 --page
      stal-cli watch /dev/video0 --detector gpu1:50051 --recognizer gpu1:50052 --run acar-1 \\
          --tls-ca ca.pem --token-file token --webhook https://alarms.example/actions
      stal-cli watch street.mp4 --detector 127.0.0.1:50051 --recognizer 127.0.0.1:50052 --run acar-1 --every 0.5 \\
          --mqtt mqtt://broker/street/actions
    """
    from cli.workflow.streaming.live import LiveSettings
    from cli.workflow.streaming.recognize_live import note, recognize_live
    from cli.workflow.streaming.source import opener_of, source_name

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    live = LiveSettings(
        name=source_name(source),
        checkpoint=checkpoint or "",
        every_ms=round(1000 * every_s),
        **live_settings,
    )
    open_source = opener_of(source)
    outputs: list[Output] = [JsonLines()]
    try:
        if webhook is not None:
            outputs.append(Webhook(webhook, note))
        if mqtt is not None:
            from cli.workflow.streaming.mqtt import Mqtt

            outputs.append(Mqtt(mqtt, note))
        services = [
            tuple(ClientConfig(address=address, wait_s=wait_s, **settings) for address in split_list(addresses))
            for addresses in (detectors, recognizers)
        ]
        asyncio.run(recognize_live(live, open_source, services[0], services[1], outputs, page_port=page_port))
    finally:
        for output in outputs:
            output.close()
            if text := output.summary():
                note(text)
