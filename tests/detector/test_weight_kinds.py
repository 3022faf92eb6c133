"""Networks of other kinds than YOLO detection, or that contradict what their file says of them, are refused by name."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from detector_svc.detector_protocol import DetectorConfig
from detector_svc.yolo.network_checks import UnfitError, check_output, read_names
from detector_svc.yolo.offline_ultralytics import import_ultralytics
from detector_svc.yolo.onnx_export import export_onnx
from detector_svc.yolo.yolo_detector import YoloDetector
from stal_data.errors import InputError
from tests.detector.samples import MODEL, picture, save_tiny_weights

HEADS = {
    "SegmentationModel": "Segment, [nc, 32, 64]",
    "PoseModel": "Pose, [nc, [17, 3]]",
    "OBBModel": "OBB, [nc, 1]",
    "ClassificationModel": "Classify, [nc]",
    "RTDETRDetectionModel": "RTDETRDecoder, [nc]",
}


def save(path: Path, model: Any, **changes: object) -> Path:
    """Without train_args, as a checkpoint is that was made smaller."""
    for name, value in changes.items():
        setattr(model, name, value)
    torch.save({"model": model.eval()}, path)
    return path


def slim(kind: str = "DetectionModel", head: str = "Detect, [nc]", channels: int = 3) -> Any:
    """The slim model of one class with another head, random."""
    import_ultralytics()
    from ultralytics.nn import tasks

    config = yaml.safe_load(MODEL.read_text()) | {"kpt_shape": [17, 3]}
    source = config["head"][-1][0]
    config["head"][-1] = [source[-1] if "Classify" in head else source, 1, *yaml.safe_load(f"[{head}]")]
    torch.manual_seed(0)
    return getattr(tasks, kind)(config, ch=channels, nc=1, verbose=False)


def load(path: Path) -> YoloDetector:
    return YoloDetector(DetectorConfig(weights=path, image_size=(90, 160), confidence=0.5, device="cpu"))


@pytest.mark.parametrize("kind", HEADS)
def test_other_kinds_of_models_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path / "other.pt", slim(kind, HEADS[kind]), names={0: "person"})
    refusal = rf"other.pt': the model is a {kind} that ends in {HEADS[kind].split(',')[0]}, .*detector train"
    with pytest.raises(InputError, match=refusal):
        load(path)
    with pytest.raises(InputError, match=refusal):
        export_onnx(path, tmp_path / "other.onnx", image_size=(90, 160), batch=None)
    assert not (tmp_path / "other.onnx").exists()


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_than_rgb_are_refused(tmp_path: Path, channels: int) -> None:
    path = save(tmp_path / "grey.pt", slim(channels=channels), names={0: "person"})
    with pytest.raises(InputError, match=rf"grey.pt': the model takes images of {channels} channels, not RGB"):
        load(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"names": {}}, "has no class names"),
        ({"names": None}, "has no class names"),
        ({"names": "person"}, "has no class names"),
        ({"names": {"person": 0}}, "numbers its classes person, but ids count from 0"),
        ({"names": {float("inf"): "person"}}, "numbers its classes inf, but ids count from 0"),
        ({"names": {1: "person"}}, "numbers its classes 1, but ids count from 0"),
        ({"names": ["person", "dog"]}, "puts out [1, 5, 30], not [B, 6, A] for its 2 classes"),
        ({"stride": None}, "has the stride None"),
        ({"stride": torch.tensor([8.0, 0.0]) - 8}, "has the stride 0"),
        ({"stride": torch.tensor([8.0])}, "fails on a grey image of 16x24"),
    ],
)
def test_weights_that_contradict_themselves_are_refused(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    path = save(tmp_path / "bad.pt", slim(), **changes)
    with pytest.raises(InputError, match=rf"bad.pt': the model {re.escape(reason)}"):
        load(path)


def test_a_list_of_names_and_names_by_text_are_read(tmp_path: Path) -> None:
    # Not the session's weights: a training in between changes torch's threads, and with them how sums are rounded.
    expected = load(save_tiny_weights(tmp_path / "expected.pt"))
    (boxes,) = expected.detect([expected.prepare(picture(3))])
    for names in (["person"], ("person",), {"0": "person"}):
        detector = load(save_tiny_weights(tmp_path / "list.pt", names=names))
        assert detector.people == ("person",)
        (found,) = detector.detect([detector.prepare(picture(3))])
        np.testing.assert_array_equal(found.boxes_N4, boxes.boxes_N4)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (torch.zeros(1, 300, 7), "puts out [1, 300, 7] as RT-DETR does, not [B, 7, A]"),
        (torch.rand(1, 7, 84), "boxes in shares of its input"),
        ((torch.zeros(1, 7, 84),), "puts out a tuple"),
        (torch.full((1, 7, 84), torch.inf), "not finite"),
    ],
)
def test_the_output_of_a_grey_image_is_looked_at(output: Any, reason: str) -> None:
    with pytest.raises(UnfitError, match=re.escape(reason)):
        check_output(lambda _: output, (1, 64, 96), num_classes=3, end2end=False)


def test_ids_of_classes_count_from_zero() -> None:
    assert read_names({1: "a", 0: "b"}) == {1: "a", 0: "b"}
    with pytest.raises(UnfitError, match="0, 2"):
        read_names({0: "a", 2: "b"})
