"""A copy of a video with its people drawn in: H.264 in MP4, with its sound."""

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from numpy.typing import NDArray

from cache.files import replacing
from cli.workflow.results.drawing import PeoplePainter
from cli.workflow.results.people import VideoPeople
from cli.workflow.results.sound import copying_sound
from stal_data.files import naming
from stal_data.media.video import VideoFiles

_CLOCK = Fraction(1, 90_000)
_KEY_EVERY_S = 2
_BT709 = 1


def write_annotated_video(
    path: Path,
    source: Path,
    people: VideoPeople,
    names: Mapping[int, str],
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> list[str]:
    """Write the MP4; return the names of actions that no font can write, which show as label ids.

    The video has the size, the pictures and the times of the source, whatever its rate; an odd side is one pixel
    longer. One picture after the other is read, drawn on and encoded. Sound is as in `copying_sound`.
    names: by label id. progress: called with (pictures done, pictures in all).
    """
    info = people.info
    width, height = info.width + info.width % 2, info.height + info.height % 2
    painter = PeoplePainter(names, info.width, info.height)
    options = {"crf": "21", "preset": "veryfast", "g": str(max(1, round(_KEY_EVERY_S * info.rate)))}
    with (
        replacing(path) as partial,
        naming(path),
        av.open(f"file:{partial}", "w", format="mp4", options={"movflags": "+faststart"}) as file,
    ):
        stream = file.add_stream("libx264", rate=info.rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        codec = stream.codec_context
        codec.time_base = _CLOCK
        codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
        codec.color_range = ColorRange.MPEG
        reformatter, latest = VideoReformatter(), -1
        media, total = VideoFiles({people.video: source}), max(1, round(info.duration_s * info.rate))
        with copying_sound(source, file) as write_sound:
            for done, (second, picture_HW3) in enumerate(media.pictures(people.video), start=1):
                drawn_HW3 = _even(picture_HW3)
                painter.draw(drawn_HW3[: info.height, : info.width], people.at(1000 * second))
                frame = reformatter.reformat(
                    av.VideoFrame.from_ndarray(drawn_HW3, format="rgb24"),
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                )
                # From the start of the player's clock on there is a picture, and no two have one time.
                frame.pts = latest = 0 if latest < 0 else max(latest + 1, round(second / _CLOCK))
                frame.time_base = _CLOCK
                file.mux(stream.encode(frame))
                write_sound(second)
                progress(min(done, total), total)
            file.mux(stream.encode(None))
            write_sound(math.inf)
    return painter.unwritable


def _even(picture_HW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a copy of a picture with its last row or column repeated where their number is odd."""
    height, width = picture_HW3.shape[:2]
    return np.pad(picture_HW3, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
