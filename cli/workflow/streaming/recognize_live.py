"""A live source from its beginning to its end, or to a signal: the reader, the services and the outputs together."""

import asyncio
import signal

import click

from cli.workflow.streaming.live import Lags, LiveRecognition, LiveSettings
from cli.workflow.streaming.live_frames import FrameBuffer
from cli.workflow.streaming.outputs import Output
from cli.workflow.streaming.page import LivePage
from cli.workflow.streaming.reader import LiveClock, LiveReader
from cli.workflow.streaming.source import Opener
from detector_svc.client.detector_client import DetectorClient, DetectorClientConfig
from recognizer_svc.client import RecognizerClient
from svc_common.config import ClientConfig

_PARTING_S = 10.0
"""How long key frames get for their answers after Ctrl-C or SIGTERM."""


def note(text: str) -> None:
    """Tell the user, on standard error."""
    click.echo(f"watch: {text}", err=True)


async def recognize_live(
    live: LiveSettings,
    open_source: Opener,
    detectors: tuple[ClientConfig, ...],
    recognizers: tuple[ClientConfig, ...],
    outputs: list[Output],
    *,
    page_port: int | None = None,
    clock: LiveClock | None = None,
) -> None:
    """Run until the source ends or a signal comes, then print the summary. A page is added to the outputs."""
    clock, lags, buffer = clock or LiveClock(), Lags(), FrameBuffer()
    if page_port is not None:
        outputs.append(page := LivePage(page_port, lags.percentiles))
        note(f"live page: {page.address}")
    reader = LiveReader(
        open_source,
        buffer,
        every_ms=live.every_ms,
        give_up_after_s=live.give_up_after_s,
        note=note,
        clock=clock,
    )
    detector = DetectorClient(DetectorClientConfig(services=detectors, priority="live"))
    recognition = LiveRecognition(
        live, reader=reader, buffer=buffer, detector=detector, outputs=outputs, lags=lags, note=note, now=clock.now
    )

    async def work() -> None:
        await detector.info()
        async with RecognizerClient(*recognizers, priority="live") as recognizer:
            await recognition.run(recognizer)

    loop, working, told = asyncio.get_running_loop(), asyncio.create_task(work()), False

    def stop() -> None:
        nonlocal told
        told = True
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        reader.stop()
        loop.call_later(_PARTING_S if recognition.waiting else 0, working.cancel)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        await working
    except asyncio.CancelledError:
        if not told:
            raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        reader.close()
        note(recognition.summary())
