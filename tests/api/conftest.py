"""One toy store with one trained run, for all tests of the Python API that only read it."""

import pytest

import stal
from tests.recognizer.toy_store import ACAR, make_store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> stal.Store:
    root = tmp_path_factory.mktemp("api") / "store"
    make_store(root)
    return stal.open_store(root)


@pytest.fixture(scope="session")
def run(store: stal.Store) -> stal.Run:
    return stal.train(ACAR, store=store, overrides={"training.epochs": 1}, run_id="trained")
