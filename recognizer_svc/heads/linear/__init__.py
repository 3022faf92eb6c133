"""One linear layer on an actor's own features: the baseline."""
