"""A store written before backbones had names of their own choosing: its features are read, its runs score and go on.

The fixture was written by the code of 2026-11: the toy store with 7 key frames a split, an ACAR and a linear run of one
epoch, and what they predicted.
"""

import csv
import tarfile
from pathlib import Path

import numpy as np
import pytest

from cache.feature_store import open_feature_set
from cache.store import Store
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.scoring.predict import Predictor
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.recipe import parse_recipe
from recognizer_svc.training.run import train_run
from tests.recognizer.test_predict import people_of
from tests.recognizer.toy_store import ACAR, toy_spec

ARCHIVE = Path(__file__).parent / "fixtures/store_of_named_backbones.tar.gz"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


@pytest.mark.parametrize("run", ["acar", "linear"])
def test_a_run_predicts_what_it_predicted(folder: Path, run: str) -> None:
    store = Store.open(folder / "store")
    predictor = Predictor.load(store.runs_dir / run, device="cpu")
    features = predictor.open_features(store, "toy", "test")
    assert features.id == toy_spec().id == features.path.name
    found = list(predictor.predict(features, people_of(store, "test")))
    with (folder / f"{run}.csv").open(newline="") as file:
        expected = [float(row[7]) for row in csv.reader(file)]
    np.testing.assert_allclose(np.concatenate([item.scores_NC.ravel() for item in found]), expected, atol=1e-6)


def test_a_run_is_trained_further(folder: Path) -> None:
    store = Store.open(folder / "store")
    run = RunDir(store.runs_dir / "acar")
    run.recipe.write_text(parse_recipe(ACAR, ["training.epochs=2", "validation.split=null"]).to_yaml())
    train_run(run, Ranks())
    assert Predictor.load(run.root, device="cpu").checkpoint.progress.epochs_done == 2


def test_its_features_are_those_of_todays_spec(folder: Path) -> None:
    store = Store.open(folder / "store")
    features = open_feature_set(store, "toy", "train", spec=toy_spec())
    assert features.complete
    assert features.read([0]).keys() == {"slow", "fast", "vit", "vit_moments"}
