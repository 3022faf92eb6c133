"""Six hosts and a bucket for all tests of this folder; see hosts.py. Skipped where the machine does not allow it."""

from collections.abc import Iterator

import pytest

from recognizer_svc.runs.run_dir import RunDir
from tests.detector.samples import save_tiny_weights
from tests.network.hosts import Network, what_is_missing
from tests.network.services import (
    STORE_PORT,
    copy_to,
    hand_out_secrets,
    start_store,
)
from tests.network.training import STORE, Site, start_service, write_recipe
from tests.recognizer.toy_store import make_store
from tests.services.certificates import make_authority

NAMES = ("laptop", "detector-a", "detector-b", "recognizer-a", "recognizer-b", "store", "alone")
"""`alone` does everything by itself, for comparison."""


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """All hosts, with certificates, the detector's weights where they belong, and the bucket."""
    missing = what_is_missing()
    if missing is not None:
        pytest.skip(missing)
    root = tmp_path_factory.mktemp("network")
    environment = {
        "AWS_ENDPOINT_URL": f"http://store:{STORE_PORT}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    network = Network(root, NAMES, environment)
    try:
        hand_out_secrets(network, make_authority(root / "authority", "authority"))
        copy_to(save_tiny_weights(root / "tiny.pt"), *(network[n] for n in ("detector-a", "detector-b", "alone")))
        start_store(network["store"])
        yield network
    finally:
        network.close()


@pytest.fixture(scope="session")
def site(network: Network) -> Iterator[Site]:
    """Two recognizers on a store in the bucket, with features to train on."""
    laptop = network["laptop"]
    write_recipe(laptop)
    toy = make_store(laptop.disk / "toy")
    laptop.run("cache", "copy", toy.root, STORE)
    recognizers = {key: start_service(network[f"recognizer-{key}"]) for key in "ab"}
    site = Site(network=network, laptop=laptop, recognizers=recognizers)
    yield site
    for recognizer in site.recognizers.values():
        recognizer.stop(seconds=30)


@pytest.fixture(scope="session")
def calm(site: Site) -> RunDir:
    """An undisturbed run on one machine."""
    finished = site.train("calm").wait()
    assert finished.returncode == 0, finished
    return site.run_on("a", "calm")


@pytest.fixture(scope="session")
def calm_on_both(site: Site) -> RunDir:
    """An undisturbed run on both machines."""
    for client in site.train_on_both("calm-on-both"):
        finished = client.wait(seconds=240)
        assert finished.returncode == 0, finished
    return site.run_on("a", "calm-on-both")
