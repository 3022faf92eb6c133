"""Annotations, label maps, key frames, frames and clips, and the synthetic data set. Imports nothing of ours."""
