"""How a mirror is told from a store of its own."""

MARKER = ".bucket.json"
"""In the root of a mirror: which bucket it belongs to."""
