"""Training a head on cached features, on one or more processes."""
