"""For all tests: before torch is imported anywhere."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# The same examples in each run, and however long they take; `--hypothesis-profile=random` looks for others.
settings.register_profile(
    "random", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.register_profile("fixed", settings.get_profile("random"), derandomize=True)
settings.load_profile("fixed")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several processes with a thread for each core would hold one another up.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The tests' own clients stay on this machine, and urllib would ask a proxy even there.
for name in [name for name in os.environ if name.lower() in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")]:
    del os.environ[name]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background jobs ignore the signal, and so would the commands that the tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST = ("tests/cli/test_demo.py", "tests/test_gpu_check.py", "trained", "tests/cache/test_precompute_kill.py")
"""Groups of tests that begin first, so that no process works on one of them while the others have nothing to do."""


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # of xdist: it would put first the groups of the most tests


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
    groups = {item: "trained" if item.location[0] in sharing else item.location[0] for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: LONGEST.index(groups[item]) if groups[item] in LONGEST else len(LONGEST))
