"""Two real processes that train together, forked from one server that has done the imports of all such tests."""

import multiprocessing
from collections.abc import Callable

PRELOADED = [
    *(f"tests.recognizer.{name}" for name in ("gloo_ranks", "joint_ranks", "batch_norm_ranks", "run_results")),
    "torch._dynamo",  # which the first optimizer imports
]


def run_two_ranks(run_rank: Callable[..., None], *words: str) -> None:
    """Call `run_rank(rank, *words)` in each; both must end well."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)  # counts for the first call in this process only
    processes = [context.Process(target=run_rank, args=(rank, *words), daemon=True) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=500)
        if process.exitcode is None:
            process.kill()
    assert [process.exitcode for process in processes] == [0, 0]
