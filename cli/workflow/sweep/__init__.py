"""Many trainings over a grid of settings and seeds, and the choice among them."""
