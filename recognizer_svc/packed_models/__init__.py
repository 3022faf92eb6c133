"""Packed models: a folder with a head and all else that scoring videos needs."""
