"""The styles of the synthetic data set, by name."""

from typing import Any

from stal_data.synth.base import Video
from stal_data.synth.style_b.video import HallVideo
from stal_data.synth.video import StreetVideo

STYLES: dict[str, type[Video[Any]]] = {"a": StreetVideo, "b": HallVideo}
