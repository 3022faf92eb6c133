"""Which feature sets fit a head."""

import pytest

from cache.feature_store import open_feature_set
from recognizer_svc.features import check_fits, open_fitting
from recognizer_svc.heads.batch import FeatureShapes
from recognizer_svc.scoring.predict import Predictor
from stal_data.errors import ConflictError, InputError
from tests.services.conftest import TRAINED, Trained


def test_a_backbone_that_the_head_does_not_use_does_not_matter(trained: Trained) -> None:
    checkpoint = Predictor.load(trained.store.runs_dir / TRAINED).checkpoint
    spec = checkpoint.feature_spec
    without_vit = spec.of_kinds(["slowfast"])
    slowfast_only = FeatureShapes.of(spec, checkpoint.shapes.arrays, ["slowfast"])
    assert check_fits(checkpoint.feature_spec, slowfast_only, without_vit) == ()
    with pytest.raises(ConflictError, match="vit"):
        check_fits(checkpoint.feature_spec, checkpoint.shapes, without_vit)


def test_mirrored_features_are_not_scored(trained: Trained) -> None:
    checkpoint = Predictor.load(trained.store.runs_dir / TRAINED).checkpoint
    mirrored = open_feature_set(trained.store, "toy", "train", view="hflip")
    with pytest.raises(InputError, match="view 'hflip'"):
        open_fitting(
            trained.store,
            "toy",
            "train",
            trained_on=checkpoint.feature_spec,
            shapes=checkpoint.shapes,
            set_id=mirrored.id,
        )
