"""Scores on videos whose features are computed here: frames in, scored key frames out."""
