"""The recognizer service: training jobs, their events, and scores from trained heads."""
