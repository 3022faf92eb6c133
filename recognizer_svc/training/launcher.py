"""torch.distributed.run with the rendezvous of `recognizer_svc.training.rendezvous`, started as

python -P -m recognizer_svc.training.launcher --local-addr ADDRESS --nproc-per-node 2 \\
    -m recognizer_svc.training.worker ...
"""

import os
import sys

from torch.distributed import run
from torch.distributed.elastic.rendezvous import rendezvous_handler_registry

from recognizer_svc.training.rendezvous import NAME, create
from stal_data.owner import end_with_owner, owned


def main() -> None:
    end_with_owner()
    os.environ.update(owned())  # the ranks', so that none outlives this process
    # Else torch's part of the rendezvous would open a store for the ranks, on all addresses.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    rendezvous_handler_registry.register(NAME, create)
    run.main(["--rdzv-backend", NAME, *sys.argv[1:]])


if __name__ == "__main__":
    main()
