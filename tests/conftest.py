"""For all tests: before torch is imported anywhere."""

import os
import signal

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several processes with a thread for each core would hold one another up.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The tests' own clients stay on this machine, and urllib would ask a proxy even there.
for name in [name for name in os.environ if name.lower() in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")]:
    del os.environ[name]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background jobs ignore the signal, and so would the commands that the tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep each file's tests in one process, which makes their fixtures once; so, too, the files that share a trained
    run and its service (tests/services/conftest.py), which take a core half a minute to make.
    """
    sharing = {
        item.location[0]
        for item in items
        if item.path.parent.name == "services" and "trained" in getattr(item, "fixturenames", ())
    }
    for item in items:
        file = item.location[0]
        item.add_marker(pytest.mark.xdist_group("trained" if file in sharing else file))
