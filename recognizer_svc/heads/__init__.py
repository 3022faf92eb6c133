"""Heads: from pooled features of a key frame and the boxes in it to one logit per person and class."""
