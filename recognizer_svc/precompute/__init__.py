"""Computing the features of a split as a job of the service."""
