"""The runs of a store: where each lies, what is in its files, which there are. Needs no torch."""
