"""A process of a sweep: trains one run after another as its parent names them, with torch loaded once.

python -P -m cli.workflow.sweep.worker STORE_FOLDER

Requests come on standard input, updates go to standard output. SIGTERM ends a training with a checkpoint.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import BinaryIO

from cache.store import Store
from cli.ui.sigterm import run_until_sigterm
from cli.workflow.sweep.frames import framed, read_frame
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.local import LocalRecognizer
from stal_data.errors import StalError
from stal_data.owner import end_with_owner


async def _work(store: Store, output: BinaryIO) -> None:
    requests = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)

    def tell(update: pb.JobUpdate) -> None:
        output.write(framed(update))
        output.flush()

    async with LocalRecognizer(store) as recognizer:
        while (request := await read_frame(requests, pb.TrainRequest)) is not None:
            try:
                async for update in recognizer.train(request):
                    tell(update)
            except (StalError, OSError) as error:
                failed = pb.Job(run_id=request.run_id, status=pb.JOB_STATUS_FAILED, message=str(error))
                tell(pb.JobUpdate(job=failed))


def main() -> None:
    end_with_owner()
    # What libraries print is no update.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    run_until_sigterm(_work(Store.open(Path(sys.argv[1])), output))


if __name__ == "__main__":
    main()
