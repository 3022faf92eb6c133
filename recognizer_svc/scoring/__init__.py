"""Scores of boxes from trained heads, for one split or for single key frames."""
