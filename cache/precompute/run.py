"""The precompute run: what is asked for is checked, feature sets are made or resumed, shards are computed."""

import os
from collections.abc import Callable, Sequence

from cache.backbones.load import LoadedBackbone
from cache.feature_store import FeatureSet, FeatureWriter, open_feature_set
from cache.feature_store.remote import set_folder
from cache.feature_store.writer import balanced_rows_per_shard
from cache.precompute.devices import check_compiler, default_decode_threads, resolve_devices
from cache.precompute.extract import Extractor, row_shapes
from cache.precompute.launch import Part, local_processes, local_rank
from cache.precompute.plan import Plan, Progress, make_plan
from cache.precompute.work import Work
from cache.spec import Autocast, ClipSpec, FeatureDtype, FeatureSpec, Layout, View
from cache.split_store import publish_split
from cache.store import Store
from stal_data.dataset import Split
from stal_data.errors import ConflictError, InputError

FULL_ROWS_PER_SHARD = 16
"""At most, where all time steps are stored: with the published backbones 21 MB a key frame and view, in float16."""


def precompute(
    split: Split,
    store: Store,
    *,
    slowfast: LoadedBackbone | None,
    vit: LoadedBackbone | None,
    views: Sequence[View] = ("identity",),
    dtype: FeatureDtype = "float16",
    layout: Layout = "pooled",
    autocast: Autocast = "none",
    compiled: bool = False,
    part: Part | None = None,
    devices: str | None = None,
    batch_size: int = 8,
    rows_per_shard: int | None = None,
    decode_threads: int | None = None,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> list[FeatureSet]:
    """Publish the split, fill one feature set for each view, and return them in the order of `views`.

    Shards that are done are skipped, so a run that was stopped resumes, and several processes share the work.
    part: fill only the shards of this part; by default whatever no other process has claimed.
    devices: `auto` (default) is every visible CUDA device (under torchrun that of LOCAL_RANK), else the CPU; or a list
        such as `cuda:0,cuda:1`.
    rows_per_shard: key frames computed and written at once, at most lost by a kill; default at most 64, or 16 where
        the layout is full.
    decode_threads: default one for each CPU core, at most 8.
    note: told what the user should know, such as that a batch did not fit the memory.
    """
    spec = feature_spec(
        split, slowfast=slowfast, vit=vit, dtype=dtype, layout=layout, autocast=autocast, compiled=compiled
    )
    if not views or len(set(views)) < len(views):
        raise InputError(f"--view is {list(views)}; name one or both of identity and hflip, each once.")
    if batch_size < 1:
        raise InputError(f"--batch-size is {batch_size}; it must be at least 1.")
    targets = resolve_devices(devices, local_rank(os.environ))
    if compiled:
        check_compiler(targets)
    threads = decode_threads or default_decode_threads(local_processes(os.environ))
    specs = {view: spec.with_view(view) for view in views}
    if rows_per_shard is None:
        rows_per_shard = default_rows_per_shard(len(split.key_frames), layout)
    plan = _plan(split, store, list(specs.values()), part, threads, progress)
    publish_split(store, split)
    writers: dict[View, FeatureWriter] = {}
    for view, wanted in specs.items():
        writers[view] = FeatureWriter.open(
            store,
            dataset=split.dataset,
            split=split.name,
            spec=wanted,
            index=plan.index,
            shapes=row_shapes(spec.slowfast, spec.vit, clip_length(spec.clip), layout),
            rows_per_shard=rows_per_shard,
        )
        rows_per_shard = writers[view].manifest.rows_per_shard
    if len({writer.manifest.rows_per_shard for writer in writers.values()}) > 1:
        raise ConflictError("The views' feature sets have shards of different sizes; precompute each --view by itself.")
    num_shards = writers[views[0]].manifest.num_shards
    shards = range(num_shards) if part is None else part.shards(num_shards)
    if part is not None and note:
        note(f"{part}: {len(shards)} of the set's {num_shards} shards")
    work = Work(
        media=split.media,
        plan=plan,
        writers=writers,
        shards=shards,
        batch_size=batch_size,
        decode_threads=threads,
        progress=progress,
    )
    work.run(
        [
            Extractor(
                slowfast,
                vit,
                device,
                layout=layout,
                autocast=autocast,
                compiled=compiled,
                batch_size=batch_size,
                note=note,
            )
            for device in targets
        ]
    )
    return [open_feature_set(store, split.dataset, split.name, spec=wanted) for wanted in specs.values()]


def feature_spec(
    split: Split,
    *,
    slowfast: LoadedBackbone | None,
    vit: LoadedBackbone | None,
    dtype: FeatureDtype,
    layout: Layout,
    autocast: Autocast,
    compiled: bool,
) -> FeatureSpec:
    """Return the spec of the features, identity view."""
    return FeatureSpec(
        slowfast=None if slowfast is None else slowfast.spec,
        vit=None if vit is None else vit.spec,
        clip=ClipSpec(),
        decoder=split.media.decoder,
        dtype=dtype,
        layout=layout,
        autocast=autocast,
        compiled=compiled,
    )


def clip_length(clip: ClipSpec) -> int:
    """Return the number of frames that the backbones see."""
    return clip.num_frames // clip.stride


def default_rows_per_shard(num_rows: int, layout: Layout) -> int | None:
    """Return rows per shard for a new set; None leaves it to the store."""
    return balanced_rows_per_shard(num_rows, FULL_ROWS_PER_SHARD) if layout == "full" and num_rows else None


def _plan(
    split: Split,
    store: Store,
    specs: Sequence[FeatureSpec],
    part: Part | None,
    threads: int,
    progress: Progress | None,
) -> Plan:
    """Check the frames of the split; of a part only its own, where the sets exist and so know the others'."""
    known, rows = None, range(len(split.key_frames))
    if part is not None:
        sets = [_existing(store, split, spec) for spec in specs]
        keys = tuple(item.key for item in split.key_frames)
        if all(found is not None and found.key_frames == keys for found in sets) and sets[0] is not None:
            known = sets[0].index
            shards = part.shards(sets[0].manifest.num_shards)
            rows = range(
                min(len(keys), shards.start * sets[0].manifest.rows_per_shard),
                min(len(keys), shards.stop * sets[0].manifest.rows_per_shard),
            )

    def checked(done: int) -> None:
        if progress:
            progress("check", done, len(rows))

    return make_plan(split, specs[0].clip, rows=rows, known=known, threads=threads, report=checked)


def _existing(store: Store, split: Split, spec: FeatureSpec) -> FeatureSet | None:
    path = set_folder(store, split.dataset, split.name, spec)
    return FeatureSet(path) if path.exists() else None
