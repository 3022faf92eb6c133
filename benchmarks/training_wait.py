"""How long training waits for features: the training loop on rows of the published shapes and the published head.

    python -m benchmarks.training_wait --head acar --rows 96 --steps 6 --batch 8 --folder /tmp

The first step is not counted. `linear` is a head that costs almost nothing; a GPU with the published head lies between
the two.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.cache_read import write_set
from cache.store import Store
from recognizer_svc.batching import epoch_plan, read_ahead
from recognizer_svc.data import LabelledFeatures, LabelledKeyFrame
from recognizer_svc.heads import build_head
from recognizer_svc.heads.batch import FeatureShapes
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.loop import Totals, Trainer, timed
from recognizer_svc.training.recipe import load_recipe
from recognizer_svc.training.schedule import build_optimizer

NUM_CLASSES, ACTORS = 50, 4


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head", choices=["acar", "linear", "relation"], default="acar")
    parser.add_argument("--autocast", choices=["none", "bf16"], default="none", help="As training.autocast.")
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2, help="That read ahead.")
    parser.add_argument("--resident", action="store_true", help="As data.resident=always.")
    parser.add_argument("--folder", type=Path, help="Where the files go; default: the temporary folder.")
    options = parser.parse_args(arguments)
    recipe = load_recipe("acar-published" if options.head == "acar" else options.head)
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        features = write_set(Store.open(folder), options.rows)
        shapes = FeatureShapes.of(features.spec, features.shapes)
        items = [
            LabelledKeyFrame(
                key=key,
                boxes_N4=np.sort(random.random((ACTORS, 2, 2), dtype=np.float32), axis=1).reshape(ACTORS, 4),
                targets_NC=(random.random((ACTORS, NUM_CLASSES)) < 0.1).astype(np.float32),
            )
            for key in features.key_frames
        ]
        data = LabelledFeatures(items, shapes, identity=features)
        if options.resident:
            data.keep(torch.device("cpu"), options.threads)
        head = build_head(recipe.head, shapes, NUM_CLASSES)
        optimizer = build_optimizer(recipe.optimizer, head.parameters())
        trainer = Trainer(
            head=head,
            model=head,
            optimizer=optimizer,
            loss=recipe.loss,
            ranks=Ranks(),
            autocast=options.autocast == "bf16",
        )
        totals = Totals()
        plans = [
            part
            for epoch in range(-(-(options.steps + 1) * options.batch // options.rows))
            for part in epoch_plan(options.rows, options.batch, seed=0, epoch=epoch, rank=0, world_size=1)
        ]
        batches = timed(read_ahead(partial(data.load, epoch=0), plans[: options.steps + 1], options.threads))
        for step, (batch, waited_s) in enumerate(batches):
            started = time.perf_counter()
            part, _ = trainer.step(batch, 1e-4)
            part.data_s, part.compute_s = waited_s, time.perf_counter() - started
            if step:
                totals.add(part)
            else:
                cpu_start = time.process_time()
        cpu_ms = (time.process_time() - cpu_start) / totals.steps * 1e3
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads")
    wait_ms, compute_ms = (seconds / totals.steps * 1e3 for seconds in (totals.data_s, totals.compute_s))
    print(
        f"{options.head}, autocast {options.autocast}, {totals.steps} steps of {options.batch} clips with {ACTORS} "
        f"people: waiting {wait_ms:.2f}, computing {compute_ms:.0f} ms a step; "
        f"waiting {totals.data_s / totals.wall_s:.3%} of the time, "
        f"{cpu_ms:.0f} ms of processor time a step, reading threads included"
    )


if __name__ == "__main__":
    main()
