"""Random numbers as a function of what they are for, so that no generator state outlives a step."""

import hashlib


def seed_of(*parts: int | str) -> int:
    """Return a seed in [0, 2**63) from e.g. the recipe's seed, a purpose, an epoch; the same on every machine."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
