"""A worker whose rank 1 fails while the other trains, and whose process group takes for ever to leave."""

import threading

import torch.distributed as dist

from recognizer_svc.training import worker
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.run import train_run
from stal_data.errors import InputError


def fail_on_rank_1(run_dir: object, ranks: Ranks, *others: object) -> bool:
    if ranks.rank == 1:
        raise InputError("only rank 1 knows why")
    return train_run(run_dir, ranks, *others)


if __name__ == "__main__":
    dist.destroy_process_group = lambda *_: threading.Event().wait()
    worker.train_run = fail_on_rank_1
    worker.run()
