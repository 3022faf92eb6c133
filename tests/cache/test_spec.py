import json
from dataclasses import replace

import pytest

from cache.backbones import BACKBONES
from cache.spec import BackboneSpec, ClipSpec, FeatureSpec
from stal_data.errors import InputError

BACKBONE = BackboneSpec(
    kind="slowfast", preset="tiny", config={"widths": (1, 2)}, weights="random:0", trained=False, height=32, width=48
)
SPEC = FeatureSpec(backbones=(BACKBONE,), decoder="pillow-1")


def test_a_spec_that_was_stored_equals_the_one_that_was_written() -> None:
    again = FeatureSpec.from_dict(SPEC.to_dict())
    assert again == SPEC
    assert again.id == SPEC.id
    assert len(SPEC.id) == 16


def test_the_id_does_not_depend_on_the_order_of_the_config() -> None:
    forwards = replace(BACKBONE, config={"a": 1, "b": [2]})
    backwards = replace(BACKBONE, config={"b": (2,), "a": 1})
    assert SPEC.with_backbone(forwards).id == SPEC.with_backbone(backwards).id


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        (replace(SPEC, decoder="pillow-2"), "decoder"),
        (SPEC.with_view("hflip"), "view"),
        (replace(SPEC, dtype="float32"), "dtype"),
        (replace(SPEC, clip=ClipSpec(stride=4)), "clip.stride"),
        (SPEC.with_backbone(replace(BACKBONE, weights="random:1")), "slowfast.weights"),
        (SPEC.with_backbone(replace(BACKBONE, config={"widths": [1, 3]})), "slowfast.config.widths"),
    ],
)
def test_every_field_changes_the_id_and_is_named_as_a_difference(changed: FeatureSpec, field: str) -> None:
    assert changed.id != SPEC.id
    [difference] = SPEC.diff(changed)
    assert difference.startswith(f"{field}: ")


def test_a_spec_does_not_differ_from_itself() -> None:
    assert SPEC.diff(FeatureSpec.from_dict(SPEC.to_dict())) == []


def test_sets_made_before_backbones_could_be_chosen_keep_their_ids() -> None:
    """The ids are those that earlier versions gave, and no field of other backbones is written."""
    vit = replace(BACKBONE, kind="vit", statistics={})
    both = FeatureSpec(backbones=(BACKBONE, vit), decoder="pillow-1")
    kept = (replace(item, statistics=BACKBONES[item.kind].all_time_steps()) for item in both.backbones)
    full = replace(both, backbones=tuple(kept))
    assert (SPEC.id, both.id, full.id) == ("409d4e69e3307160", "29ad466944132fd9", "8129585259bee7a8")
    assert [spec.to_dict()["layout"] for spec in (SPEC, both, full)] == ["pooled", "pooled", "full"]
    assert SPEC.to_dict()["vit"] is None
    for spec in (SPEC, both, full):
        assert FeatureSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    "others",
    [
        [replace(BACKBONE, statistics={"slow": ("full",), "fast": ("mean", "moments")})],
        [BACKBONE, replace(BACKBONE, kind="timm", statistics={})],
        [replace(BACKBONE, kind="elsewhere", statistics={"b": ("mean",), "a": ("full",)})],
    ],
    ids=["mixed statistics", "another backbone", "one that is not installed"],
)
def test_any_backbones_and_statistics_are_stored_and_read(others: list[BackboneSpec]) -> None:
    spec = FeatureSpec(backbones=tuple(others), decoder="pillow-1")
    again = FeatureSpec.from_dict(json.loads(spec.canonical()))
    assert again == spec
    assert again.id == spec.id
    assert [array.name for array in again.arrays] == [array.name for array in spec.arrays]


def test_arrays_come_in_the_order_of_the_backbones() -> None:
    vit = replace(BACKBONE, kind="vit", statistics={})
    for backbones in ((BACKBONE, vit), (vit, BACKBONE)):
        spec = FeatureSpec(backbones=backbones, decoder="d")
        assert [array.name for array in spec.arrays] == ["slow", "fast", "vit", "vit_moments"]


def test_bad_specs_are_refused() -> None:
    with pytest.raises(InputError, match="at least one backbone"):
        FeatureSpec(backbones=(), decoder="d")
    with pytest.raises(InputError, match="backbone 'slowfast' 2 times"):
        FeatureSpec(backbones=(BACKBONE, BACKBONE), decoder="d")
    with pytest.raises(InputError, match=r"There is no backbone 'slofast'\. Did you mean 'slowfast'"):
        replace(BACKBONE, kind="slofast", statistics={})
    with pytest.raises(InputError, match="array 'slow' 2 times"):
        FeatureSpec(backbones=(replace(BACKBONE, statistics={"slow": ("mean", "full")}),), decoder="d")
    with pytest.raises(InputError, match="statistic of the map 'slow' is 'median'; it must be one of mean, max,"):
        replace(BACKBONE, statistics={"slow": ("median",)})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="map of the slowfast backbone is 'vit'; it must be one of slow, fast"):
        replace(BACKBONE, statistics={"vit": ("mean",)})
    with pytest.raises(InputError, match="dtype is 'float64'; it must be one of float16, float32"):
        replace(SPEC, dtype="float64")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"weights is 'best\.pt'"):
        replace(BACKBONE, weights="best.pt")
    with pytest.raises(InputError, match="unexpected keyword argument 'speed'"):
        FeatureSpec.from_dict(SPEC.to_dict() | {"speed": 1})
