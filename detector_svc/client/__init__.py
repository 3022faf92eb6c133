"""The client of a detector and its replicas. Needs no torch."""
