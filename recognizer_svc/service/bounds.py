"""Bounds of what an operator may choose."""

LONGEST_STOP_S = 3600.0
"""The most that --job-stop-s may be: a client waits longer for a cancelled job."""
MAX_KEPT = 20_000
"""The most that --keep-features may be: at each shard the people of all key frames so far are written."""
