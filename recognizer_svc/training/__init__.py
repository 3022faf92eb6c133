"""Training a head: recipe, inputs, loop, ranks, checkpoints; head files, and runs that are made of them."""
