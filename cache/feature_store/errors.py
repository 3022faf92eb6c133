"""Stored bytes that are not what was written, as opposed to a disk or a server that does not answer."""

from stal_data.errors import InputError


class DamagedError(InputError):
    """A file is lost or short, or a checksum or digest differs; computing the rows again mends it."""


def damaged_shard(name: str, reason: str) -> DamagedError:
    """name: the shard's file or URL."""
    return DamagedError(
        f"The shard '{name}' is damaged: {reason}. Run 'stal-cli cache verify --repair' on the store, then "
        "precompute again."
    )
