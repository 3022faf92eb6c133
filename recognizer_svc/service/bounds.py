"""What a client must know of an operator's choices."""

LONGEST_STOP_S = 3600.0
"""The most that --job-stop-s may be: a client waits longer for a cancelled job."""
