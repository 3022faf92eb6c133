"""The detector service: its calls, its streams, and the batches that they share."""
