"""What to compute and how, alike for a run and for its estimate."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from cache.backbones.load import LoadedBackbone
from cache.feature_store.writer import balanced_rows_per_shard
from cache.precompute.devices import check_compiler, default_decode_threads, resolve_devices
from cache.precompute.extract import Extractor
from cache.precompute.launch import Part, local_processes, local_rank
from cache.spec import Autocast, ClipSpec, FeatureDtype, FeatureSpec, View
from stal_data.dataset import Split
from stal_data.errors import InputError

FULL_ROWS_PER_SHARD = 16
"""At most, where all time steps are stored: with the published backbones 21 MB a key frame and view, in float16."""


@dataclass(frozen=True, kw_only=True)
class PrecomputeOptions:
    """backbones: at least one, each kind once. views: one or both, each once.

    compiled: run the backbones through torch.compile.
    part: only the shards of this part; None is whatever no other process has claimed.
    device: None is the first visible CUDA device (under torchrun that of LOCAL_RANK), else the CPU.
    batch_size: clips computed at once on a device.
    rows_per_shard: key frames written at once, about what a kill loses; only for a new set. None is at most 64, or 16
        where all time steps are kept.
    decode_threads: None is one for each CPU core, at most 16.
    """

    backbones: Sequence[LoadedBackbone]
    views: Sequence[View] = ("identity",)
    dtype: FeatureDtype = "float16"
    autocast: Autocast = "none"
    compiled: bool = False
    part: Part | None = None
    device: torch.device | None = None
    batch_size: int = 8
    rows_per_shard: int | None = None
    decode_threads: int | None = None

    def __post_init__(self) -> None:
        if not self.views or len(set(self.views)) < len(self.views):
            raise InputError(f"--view is {list(self.views)}; name one or both of identity and hflip, each once.")
        if self.batch_size < 1:
            raise InputError(f"--batch-size is {self.batch_size}; it must be at least 1.")

    def spec(self, split: Split) -> FeatureSpec:
        """Return the spec of the features of a split, identity view."""
        return FeatureSpec(
            backbones=tuple(backbone.spec for backbone in self.backbones),
            clip=ClipSpec(),
            decoder=split.media.decoder,
            dtype=self.dtype,
            autocast=self.autocast,
            compiled=self.compiled,
        )

    def shard_rows(self, num_rows: int) -> int | None:
        """Return rows per shard for a new set; None leaves it to the store."""
        arrays = [array for backbone in self.backbones for array in backbone.spec.arrays]
        if self.rows_per_shard is None and num_rows and any(array.statistic == "full" for array in arrays):
            return balanced_rows_per_shard(num_rows, FULL_ROWS_PER_SHARD)
        return self.rows_per_shard

    def threads(self) -> int:
        """Return the number of threads that decode."""
        return self.decode_threads or default_decode_threads(local_processes(os.environ))

    def extractor(self, note: Callable[[str], None] | None = None) -> Extractor:
        """note: told when a batch does not fit the memory."""
        device = self.device or resolve_devices(None, local_rank(os.environ))[0]
        if self.compiled:
            check_compiler(device)
        return Extractor(
            self.backbones,
            device,
            dtype=self.dtype,
            autocast=self.autocast,
            compiled=self.compiled,
            batch_size=self.batch_size,
            note=note,
        )
