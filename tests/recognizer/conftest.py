"""One toy store for all tests that only read it, and runs in stores of their own."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cache.store import Store
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.training.recipe import parse_recipe
from stal_data.sealed import sealed_text
from tests.recognizer.toy_store import ACAR, make_store


@pytest.fixture(scope="session")
def toy_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Read only; runs go to `new_run`."""
    return make_store(tmp_path_factory.mktemp("toy") / "store")


@pytest.fixture
def new_run(toy_store: Store, tmp_path: Path) -> Callable[..., RunDir]:
    """Make a run's folder with a resolved recipe, in a copy of the store."""
    root = tmp_path / "store"

    def make(run_id: str, overrides: Sequence[str] = (), text: str = ACAR) -> RunDir:
        if not root.exists():
            shutil.copytree(toy_store.root, root)
        return make_run(root, run_id, overrides, text)

    return make


def make_run(root: Path, run_id: str, overrides: Sequence[str] = (), text: str = ACAR) -> RunDir:
    """Make a run's folder in the store at `root`, as a job's submission does."""
    run_dir = RunDir(root / "runs" / run_id)
    run_dir.root.mkdir(parents=True, exist_ok=True)
    run_dir.recipe.write_bytes(sealed_text(parse_recipe(text, overrides).to_yaml()))
    return run_dir
