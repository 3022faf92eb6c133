"""For all tests: before torch is imported anywhere."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several processes with a thread for each core would hold one another up.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
