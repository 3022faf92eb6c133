"""The synthetic data set: articulated people in street scenes, in Chaotic World's layout, same seed same bytes."""

from stal_data.synth.writer import render_dataset

__all__ = ["render_dataset"]
