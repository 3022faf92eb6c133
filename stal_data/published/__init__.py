"""Reads the published pickles of annotations and detections without running anything that is in them."""
