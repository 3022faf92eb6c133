from dataclasses import replace

import pytest

from cache.spec import BackboneSpec, ClipSpec, FeatureSpec
from stal_data.errors import InputError

BACKBONE = BackboneSpec(
    kind="slowfast", preset="tiny", config={"widths": (1, 2)}, weights="random:0", trained=False, height=32, width=48
)
SPEC = FeatureSpec(slowfast=BACKBONE, vit=None, decoder="pillow-1")


def test_a_spec_that_was_stored_equals_the_one_that_was_written() -> None:
    again = FeatureSpec.from_dict(SPEC.to_dict())
    assert again == SPEC
    assert again.id == SPEC.id
    assert len(SPEC.id) == 16


def test_the_id_does_not_depend_on_the_order_of_the_config() -> None:
    forwards = replace(BACKBONE, config={"a": 1, "b": [2]})
    backwards = replace(BACKBONE, config={"b": (2,), "a": 1})
    assert replace(SPEC, slowfast=forwards).id == replace(SPEC, slowfast=backwards).id


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        (replace(SPEC, decoder="pillow-2"), "decoder"),
        (SPEC.with_view("hflip"), "view"),
        (replace(SPEC, dtype="float32"), "dtype"),
        (replace(SPEC, clip=ClipSpec(stride=4)), "clip.stride"),
        (replace(SPEC, slowfast=replace(BACKBONE, weights="random:1")), "slowfast.weights"),
        (replace(SPEC, slowfast=replace(BACKBONE, config={"widths": [1, 3]})), "slowfast.config.widths"),
    ],
)
def test_every_field_changes_the_id_and_is_named_as_a_difference(changed: FeatureSpec, field: str) -> None:
    assert changed.id != SPEC.id
    [difference] = SPEC.diff(changed)
    assert difference.startswith(f"{field}: ")


def test_a_spec_does_not_differ_from_itself() -> None:
    assert SPEC.diff(FeatureSpec.from_dict(SPEC.to_dict())) == []


def test_bad_specs_are_refused() -> None:
    with pytest.raises(InputError, match="at least one backbone"):
        FeatureSpec(slowfast=None, vit=None, decoder="d")
    with pytest.raises(InputError, match="must be 'vit'"):
        FeatureSpec(slowfast=None, vit=BACKBONE, decoder="d")
    with pytest.raises(InputError, match="dtype is 'float64'; it must be one of float16, float32"):
        replace(SPEC, dtype="float64")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"weights is 'best\.pt'"):
        replace(BACKBONE, weights="best.pt")
    with pytest.raises(InputError, match="unexpected keyword argument 'speed'"):
        FeatureSpec.from_dict(SPEC.to_dict() | {"speed": 1})
