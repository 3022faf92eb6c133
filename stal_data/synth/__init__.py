"""The synthetic data set: articulated people, in one of two styles, in Chaotic World's layout, same seed same bytes."""

from stal_data.synth.styles import STYLES
from stal_data.synth.writer import render_dataset

__all__ = ["STYLES", "render_dataset"]
