"""YOLO against Ultralytics' own prediction, and the weights that it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from detector_svc.detector_protocol import DetectorConfig
from detector_svc.yolo.torch_network import choose_device
from detector_svc.yolo.yolo_detector import YoloDetector, choose_classes
from stal_data.errors import InputError, NotFoundError
from tests.detector.samples import ROOT, picture, save_tiny_weights


@pytest.mark.parametrize(
    ("size", "network"), [((180, 320), (192, 320)), ((320, 180), (320, 192)), ((64, 96), (64, 96))]
)
def test_image_size_is_height_then_width(weights: Path, size: tuple[int, int], network: tuple[int, int]) -> None:
    detector = YoloDetector(DetectorConfig(weights=weights, image_size=(size[0], size)[1], device="cpu"))
    shapes = []
    detector.network.module.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    detector.detect([detector.prepare(picture(1))])
    assert detector.input_size == network
    assert shapes == [(1, 3, *network)]


@pytest.mark.parametrize(("width", "height"), [(160, 90), (320, 180), (90, 160), (200, 60), (641, 273)])
def test_boxes_equal_ultralytics_prediction(
    weights: Path, detector: YoloDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, height: int
) -> None:
    from ultralytics import YOLO

    monkeypatch.chdir(tmp_path)
    image_HW3 = picture(3, width, height)
    (found,) = detector.detect([detector.prepare(image_HW3)])
    reference = YOLO(str(weights)).predict(
        image_HW3[..., ::-1].copy(),  # it takes BGR
        imgsz=[90, 160],
        conf=0.5,
        iou=0.7,
        agnostic_nms=True,
        rect=False,
        device="cpu",
        verbose=False,
    )[0]
    assert len(found) == len(reference.boxes) > 3
    # Boxes with nearly equal scores may change places: our network has another memory format.
    left = np.column_stack([np.clip(reference.boxes.xyxyn.numpy(), 0, 1), reference.boxes.conf.numpy()])
    for row in np.column_stack([found.boxes_N4, found.scores_N]):
        nearest = np.abs(left - row).max(axis=1).argmin()
        np.testing.assert_allclose(row, left[nearest], atol=1e-4)
        left = np.delete(left, nearest, axis=0)
    assert (np.diff(found.scores_N) <= 0).all()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def test_boxes_do_not_depend_on_what_shares_the_batch(weights: Path, device: str) -> None:
    """To the last bit, with more images than one pass of a GPU takes."""
    detector = YoloDetector(
        DetectorConfig(weights=weights, image_size=(90, 160), confidence=0.5, device=device, gpu_pass=4)
    )
    images = [detector.prepare(picture(seed, 100 + 40 * seed, 150)) for seed in range(6)]
    for image, found in zip(images, detector.detect(images), strict=True):
        (alone,) = detector.detect([image])
        assert len(alone) == len(found) > 0
        np.testing.assert_array_equal(alone.boxes_N4, found.boxes_N4)
        np.testing.assert_array_equal(alone.scores_N, found.scores_N)


def test_boxes_do_not_depend_on_what_the_process_has_imported(weights: Path) -> None:
    """Ultralytics has two NMS, and chooses by whether torchvision is imported."""
    program = f"""
from pathlib import Path
from detector_svc.yolo.yolo_detector import DetectorConfig, YoloDetector
from tests.detector.samples import picture
config = DetectorConfig(weights=Path({str(weights)!r}), image_size=(90, 160), confidence=0.5, device="cpu")
detector = YoloDetector(config)
images = [detector.prepare(picture(seed)) for seed in range(120)]
before = [found.boxes_N4.tolist() for found in detector.detect(images)]
import torchvision
assert before == [found.boxes_N4.tolist() for found in detector.detect(images)]
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_every_pass_of_the_network_has_one_shape(detector: YoloDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels for another number of images may sum in another order."""
    monkeypatch.setattr(detector, "pass_size", 4)
    network, shapes = detector.network, []

    def watched(images_BHW3: NDArray[np.uint8]) -> torch.Tensor:
        shapes.append(images_BHW3.shape)
        return network(images_BHW3)

    monkeypatch.setattr(detector, "network", watched)
    watched.end2end = network.end2end
    assert len(detector.detect([detector.prepare(picture(seed)) for seed in range(6)])) == 6
    assert shapes == [(4, 96, 160, 3)] * 2


def test_confidence_is_inclusive(weights: Path) -> None:
    def scores(confidence: float) -> list[float]:
        config = DetectorConfig(weights=weights, image_size=(90, 160), confidence=confidence, device="cpu")
        detector = YoloDetector(config)
        return detector.detect([detector.prepare(picture(3))])[0].scores_N.tolist()

    third = scores(0.5)[2]
    assert min(scores(third)) == third
    assert min(scores(float(np.nextafter(np.float32(third), np.float32(1))))) > third


def test_only_people_count_and_one_person_is_one_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ultralytics import YOLO

    monkeypatch.chdir(tmp_path)
    path, image_HW3 = save_tiny_weights(tmp_path / "two.pt", names={0: "dog", 1: "person"}), picture(4)

    def count(classes: tuple[int, ...] | None) -> int:
        config = DetectorConfig(weights=path, image_size=(90, 160), confidence=0.5, classes=classes, device="cpu")
        detector = YoloDetector(config)
        return len(detector.detect([detector.prepare(image_HW3)])[0])

    def reference(classes: list[int], *, across_classes: bool) -> int:
        settings = {"imgsz": [90, 160], "conf": 0.5, "rect": False, "device": "cpu", "verbose": False}
        image = image_HW3[..., ::-1].copy()
        return len(YOLO(str(path)).predict(image, classes=classes, agnostic_nms=across_classes, **settings)[0].boxes)

    assert count(None) == reference([1], across_classes=True)
    assert count((0, 1)) == reference([0, 1], across_classes=True) < reference([0, 1], across_classes=False)


def test_class_choice() -> None:
    assert choose_classes({0: "anything"}, None) == (0,)
    assert choose_classes({0: "car", 1: "Person"}, None) == (1,)
    assert choose_classes({0: "Normal", 1: "Fall"}, (1, 0)) == (0, 1)
    with pytest.raises(InputError, match=r"0=Normal, 1=Fall.*--classes 0,1"):
        choose_classes({0: "Normal", 1: "Fall"}, None)
    with pytest.raises(InputError, match="--classes 2"):
        choose_classes({0: "Normal", 1: "Fall"}, (2,))


def test_missing_weights_say_that_nothing_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing is downloaded"):
        YoloDetector(DetectorConfig(weights=Path("yolov8n.pt"), image_size=(90, 160)))
    with pytest.raises(NotFoundError, match=r"gone\.pt"):
        YoloDetector(DetectorConfig(weights=tmp_path / "gone.pt", image_size=(90, 160)))


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "flipped", "other"])
def test_corrupt_weights_are_named(weights: Path, tmp_path: Path, damage: str) -> None:
    path, data = tmp_path / "bad.pt", weights.read_bytes()
    if damage == "other":
        torch.save({"state": torch.zeros(3)}, path)
    else:
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 0xFF
        path.write_bytes(
            {"empty": b"", "text": b"hello", "truncated": data[: len(data) // 2], "flipped": flipped}[damage]
        )
    with pytest.raises(InputError, match=r"bad\.pt"):
        YoloDetector(DetectorConfig(weights=path, image_size=(90, 160)))


class _Attack:
    """Unpickles into a call."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_loading_weights_runs_nothing_that_is_in_them(tmp_path: Path) -> None:
    torch.save({"model": _Attack(tmp_path / "pwned")}, tmp_path / "attack.pt")
    with pytest.raises(InputError, match=r"attack\.pt"):
        YoloDetector(DetectorConfig(weights=tmp_path / "attack.pt", image_size=(90, 160)))
    assert not (tmp_path / "pwned").exists()


def test_bad_settings_are_refused(weights: Path) -> None:
    for settings, text in (
        ({"confidence": 0.0}, "above 0"),
        ({"image_size": (8, 160)}, "32 to 4096"),
        ({"overlap": 1.5}, "at most 1"),
        ({"name": "a/b"}, "--name"),
    ):
        with pytest.raises(InputError, match=text):
            DetectorConfig(**({"weights": weights, "image_size": (90, 160)} | settings))
    with pytest.raises(InputError, match="--device 'gpu'"):
        choose_device("gpu")
