"""What a precompute job computes, as its folder in the store keeps it."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cache.backbones.choice import read_statistics
from cache.spec import AUTOCASTS, DTYPES
from stal_data.errors import InputError
from stal_data.files import write_atomically
from stal_data.sealed import read_json, sealed_json

_VIEWS = ("identity", "hflip")
_MAX_BATCH = 1024
_MAX_ROWS = 2**31 - 1
_MAX_STATISTICS = 100


@dataclass(frozen=True, kw_only=True)
class FeatureRequest:
    """What a client may choose of a feature set; the backbones and their weights are the operator's choice.

    dataset: folder relative to the data root. The others are as the options of `stal-cli precompute`.
    """

    dataset: str
    split: str
    views: tuple[str, ...] = ("identity",)
    dtype: str = "float16"
    statistics: tuple[str, ...] = ()
    autocast: str = "none"
    compiled: bool = False
    batch_size: int = 8
    rows_per_shard: int | None = None

    def __post_init__(self) -> None:
        if not self.views or len(set(self.views)) < len(self.views) or not set(self.views) <= set(_VIEWS):
            raise InputError(f"views is {list(self.views[:5])}; name one or both of identity and hflip, each once.")
        for field, value, known in (("dtype", self.dtype, DTYPES), ("autocast", self.autocast, AUTOCASTS)):
            if value not in known:
                raise InputError(f"{field} is {value[:50]!r}, but must be one of {', '.join(known)}.")
        if not 1 <= self.batch_size <= _MAX_BATCH:
            raise InputError(f"batch_size is {self.batch_size}, but must be 1 to {_MAX_BATCH}.")
        if self.rows_per_shard is not None and not 1 <= self.rows_per_shard <= _MAX_ROWS:
            raise InputError(f"rows_per_shard is {self.rows_per_shard}, but must be 1 or more.")
        if len(self.statistics) > _MAX_STATISTICS:
            raise InputError(f"statistics has {len(self.statistics)} entries, but may have {_MAX_STATISTICS} at most.")

    def kept(self, kinds: list[str]) -> dict[str, Any]:
        """Return what is stored of the maps of each kind of backbone."""
        return {**read_statistics(self.statistics, kinds)}

    def write(self, path: Path) -> None:
        write_atomically(path, sealed_json(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> "FeatureRequest":
        values = read_json(path, "Cancel the job and start another one.")
        if not values:
            raise InputError(f"The job's request '{path}' is missing. Start another job.")
        lists = {name: tuple(values[name]) for name in ("views", "statistics")}
        return cls(**values | lists)
