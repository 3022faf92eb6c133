"""The precompute run: what is asked for is checked, feature sets are made or resumed, shards are computed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cache.feature_store import FeatureSet, FeatureWriter, open_feature_set
from cache.feature_store.locate import find_set
from cache.precompute.extract import row_shapes
from cache.precompute.launch import Part
from cache.precompute.options import PrecomputeOptions
from cache.precompute.plan import Plan, Progress, make_plan
from cache.precompute.shard_queue import ShardQueue
from cache.spec import FeatureSpec, View
from cache.split_store import publish_split
from cache.store import Store
from stal_data.amounts import amount
from stal_data.dataset import Split
from stal_data.errors import ConflictError


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a run will compute. shards: those of the part."""

    plan: Plan
    writers: Mapping[View, FeatureWriter]
    shards: range


def precompute(
    split: Split,
    store: Store,
    options: PrecomputeOptions,
    *,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
    must_stop: Callable[[], bool] | None = None,
    wait: bool = False,
    others: Callable[[int], None] | None = None,
) -> list[FeatureSet]:
    """Publish the split, fill one feature set for each view, and return them in the order of `options.views`.

    Shards that are done are skipped, so a run that was stopped resumes, and several processes share the work.
    note: told what the user should know, such as that a batch did not fit the memory.
    must_stop: asked before each shard; once it says so, no other shard is begun.
    wait: for shards that other processes hold, and compute what they leave undone; else that is an error.
    others: told how many rows they have computed since the begin, before these count as progress.
    """
    extractor = options.extractor(note)  # first, as it refuses what cannot be computed
    prepared = prepare(split, store, options, progress=progress)
    if options.part is not None and note:
        num_shards = next(iter(prepared.writers.values())).manifest.num_shards
        note(f"{options.part}: {len(prepared.shards)} of the set's {amount(num_shards, 'shard')}")
    ShardQueue(
        media=split.media,
        plan=prepared.plan,
        writers=prepared.writers,
        shards=prepared.shards,
        batch_size=options.batch_size,
        decode_threads=options.threads(),
        progress=progress,
        must_stop=must_stop,
        wait=wait,
        others=others,
    ).run(extractor)
    return feature_sets(split, store, options)


def prepare(split: Split, store: Store, options: PrecomputeOptions, *, progress: Progress | None = None) -> Prepared:
    """Check the frames, publish the split and make a feature set for each view that has none.

    Processes that fill parts of these sets check only their own frames.
    """
    spec, part = options.spec(split), options.part
    specs = {view: spec.with_view(view) for view in options.views}
    rows_per_shard = options.shard_rows(len(split.key_frames))
    plan = _plan(split, store, list(specs.values()), part, options.threads(), progress)
    publish_split(store, split)
    writers: dict[View, FeatureWriter] = {}
    for view, wanted in specs.items():
        writers[view] = FeatureWriter.open(
            store,
            dataset=split.dataset,
            split=split.name,
            spec=wanted,
            index=plan.index,
            shapes=row_shapes(wanted),
            rows_per_shard=rows_per_shard,
        )
        rows_per_shard = writers[view].manifest.rows_per_shard
    if len({writer.manifest.rows_per_shard for writer in writers.values()}) > 1:
        raise ConflictError("The views' feature sets have shards of different sizes; precompute each --view by itself.")
    num_shards = next(iter(writers.values())).manifest.num_shards
    return Prepared(plan=plan, writers=writers, shards=range(num_shards) if part is None else part.shards(num_shards))


def feature_sets(split: Split, store: Store, options: PrecomputeOptions) -> list[FeatureSet]:
    """Return the set of each view."""
    spec = options.spec(split)
    return [open_feature_set(store, split.dataset, split.name, spec=spec.with_view(view)) for view in options.views]


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
    path = find_set(store, split.dataset, split.name, spec).path
    return FeatureSet(path) if path.exists() else None
