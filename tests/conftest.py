"""For all tests: before torch is imported anywhere."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several processes with a thread for each core would hold one another up.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The tests' own clients stay on this machine, and urllib would ask a proxy even there.
for name in [name for name in os.environ if name.lower() in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")]:
    del os.environ[name]
