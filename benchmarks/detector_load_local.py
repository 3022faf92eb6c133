"""The detector's YOLO without a service, on the encoded images of a folder, for `benchmarks.detector_load`.

`batched` is what the service computes, in one thread: decode, scale, infer in batches. `published` is the published
loop: Ultralytics' own predictor, one image at a time. Prints a JSON object.
"""

import argparse
import io
import json
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from detector_svc.detector_protocol import DetectorConfig
from detector_svc.service.freed_memory import keep_freed_memory
from detector_svc.yolo.offline_ultralytics import import_ultralytics
from detector_svc.yolo.yolo_detector import YoloDetector
from stal_data.media.images import decode_image

WARM_UP_S = 2.0


def read_images(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*.png"))]


def batched(options: argparse.Namespace) -> Callable[[list[bytes]], int]:
    height, width = options.image_size
    keep_freed_memory()  # as the service does
    detector = YoloDetector(
        DetectorConfig(
            weights=options.weights, image_size=(height, width), confidence=options.confidence, device=options.device
        )
    )

    def run(images: list[bytes]) -> int:
        prepared = [detector.prepare(decode_image(image, "The image")) for image in images]
        return sum(map(len, detector.detect(prepared)))

    return run


def published(options: argparse.Namespace) -> Callable[[list[bytes]], int]:
    import_ultralytics()
    from ultralytics import YOLO

    model = YOLO(str(options.weights))
    device = "cpu" if options.device == "auto" else options.device

    def run(images: list[bytes]) -> int:
        (image,) = images
        pixels_HW3 = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))[:, :, ::-1]  # as cv2.imread gives it
        (found,) = model.predict(
            np.ascontiguousarray(pixels_HW3),
            imgsz=list(options.image_size),
            conf=options.confidence,
            device=device,
            verbose=False,
        )
        return len(found.boxes)

    return run


def measure(run: Callable[[list[bytes]], int], batches: Iterator[list[bytes]], seconds: float) -> dict[str, float]:
    warm = time.perf_counter() + WARM_UP_S
    while time.perf_counter() < warm:
        run(next(batches))
    images = boxes = 0
    start, cpu = time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - start) < seconds:
        batch = next(batches)
        boxes += run(batch)
        images += len(batch)
    return {"images": images, "boxes": boxes, "seconds": elapsed, "cpu_s": time.process_time() - cpu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["batched", "published"])
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--image-size", type=int, nargs=2, required=True, help="Height and width.")
    parser.add_argument("--confidence", type=float, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    images = cycle(read_images(options.images))
    size = options.batch if options.mode == "batched" else 1
    run = (batched if options.mode == "batched" else published)(options)
    print(json.dumps(measure(run, iter(lambda: list(islice(images, size)), []), options.seconds)))


if __name__ == "__main__":
    main()
