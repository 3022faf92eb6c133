"""A YOLO network in an ONNX file, run by onnxruntime. The file holds a graph and numbers; no code in it is executed.

Shape letters: B images, H height, W width, C classes, A anchors.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache.onnx_files import import_onnx
from detector_svc.yolo.network_checks import UnfitError, check_output, check_stride, read_names, trained_size
from stal_data.errors import InputError

_LONGEST_METADATA = 100_000
_EXPORT_AGAIN = (
    "Export a YOLO detection model of RGB images with 'stal-cli detector export', or with Ultralytics without nms and "
    "half precision."
)


class OnnxNetwork:
    """A `yolo_detector.Network`. Names, stride and task come from the metadata that Ultralytics writes."""

    def __init__(self, path: Path, content: bytes, device: str) -> None:
        """Read the file's content; what is no detection model is an error that names the path.

        device: see DetectorConfig.
        """
        onnx, runtime = import_onnx(path)
        self._path = path
        self.library: str | None = f"onnxruntime-{runtime.__version__}"
        self.device, providers = _choose_device(device, runtime.get_available_providers())
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # its errors come as exceptions, too
        # As many as torch uses for a .pt file, which is what OMP_NUM_THREADS says.
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            if any(tensor.external_data for tensor in _tensors(onnx.ModelProto.FromString(content), onnx.TensorProto)):
                raise self._refused("takes numbers from another file, which its digest does not cover")
            if self.device != "cpu":
                runtime.preload_dlls()  # CUDA's libraries of torch's wheels
            self._session = runtime.InferenceSession(content, options, providers=providers)
        except InputError:
            raise
        except Exception as error:  # whatever a damaged file makes the two say
            raise InputError(
                f"The weights '{path}' cannot be read as an ONNX model ({type(error).__name__}: "
                f"{str(error).splitlines()[0] if str(error) else 'no reason given'}). {_EXPORT_AGAIN}"
            ) from error
        if self.device != "cpu" and "CUDAExecutionProvider" not in self._session.get_providers():
            raise InputError(  # it falls back to the CPU, and says so only in its log
                f"--device '{device}' cannot be used: onnxruntime {runtime.__version__} could not load CUDA for "
                f"'{path}'. Install the onnxruntime-gpu for this machine's CUDA and cuDNN, or give --device cpu."
            )
        try:
            self._read_metadata(self._session.get_modelmeta().custom_metadata_map)
            self._read_shapes()
            size = self.input_size or (2 * self.stride, 3 * self.stride)
            check_output(self, (self.batch or 1, *size), num_classes=len(self.names), end2end=self.end2end)
        except UnfitError as error:
            raise self._refused(str(error)) from error

    def _read_metadata(self, metadata: Mapping[str, str]) -> None:
        def value(field: str) -> Any:
            try:
                return ast.literal_eval(metadata[field][:_LONGEST_METADATA])  # numbers, texts and dicts; no code
            except (KeyError, ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                raise UnfitError(f"has no readable '{field}' in its metadata") from None

        if metadata.get("task") != "detect":
            raise UnfitError(f"is for '{metadata.get('task')}'; a detection model is needed")
        self.names, self.stride = read_names(value("names")), check_stride(value("stride"))
        self.end2end = metadata.get("end2end") == "True"
        self.trained_size = trained_size(value("imgsz") if "imgsz" in metadata else None)
        if "args" in metadata and isinstance(args := value("args"), dict) and args.get("nms"):
            raise UnfitError("has its own confidence threshold and overlap inside (nms)")

    def _read_shapes(self) -> None:
        inputs = self._session.get_inputs()
        shape = list(inputs[0].shape) if len(inputs) == 1 else []
        if len(shape) != 4 or inputs[0].type != "tensor(float)" or shape[1] != 3:
            found = "; ".join(f"{item.type} {item.shape}" for item in inputs) or "nothing"
            raise UnfitError(f"takes {found}, not one tensor(float) [B, 3, H, W]")
        self._input = inputs[0].name
        self.batch: int | None = shape[0] if isinstance(shape[0], int) else None
        sides = shape[2:]
        self.input_size: tuple[int, int] | None = (
            (sides[0], sides[1]) if all(isinstance(side, int) for side in sides) else None
        )

    def __call__(self, images_BHW3: NDArray[np.uint8]) -> torch.Tensor:
        """Run one batch."""
        batch_B3HW = np.divide(images_BHW3.transpose(0, 3, 1, 2), 255, dtype=np.float32, order="C")
        return torch.from_numpy(self._session.run(None, {self._input: batch_B3HW})[0])

    def _refused(self, reason: str) -> InputError:
        return InputError(f"The weights '{self._path}': the model {reason}. {_EXPORT_AGAIN}")


def _tensors(message: Any, kind: type) -> Iterator[Any]:
    """All tensors in a protobuf message, however deep; also those that only hold a reference."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in value if hasattr(value, "__len__") else (value,):
                if isinstance(item, kind):
                    yield item
                yield from _tensors(item, kind)


def _choose_device(device: str, available: list[str]) -> tuple[str, list[Any]]:
    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    # Those that it was built with, of which some may not work here.
    if device == "cpu" or (device == "auto" and not (cuda in available and torch.cuda.is_available())):
        return "cpu", [cpu]
    wanted = "cuda:0" if device in ("auto", "cuda") else device
    kind, _, number = wanted.partition(":")
    if kind == "cuda" and number.isdigit() and cuda in available:
        return wanted, [(cuda, {"device_id": int(number), "use_tf32": 0}), cpu]
    raise InputError(
        f"--device '{device}' cannot be used: this onnxruntime runs on {', '.join(available)}. Give auto or cpu, or "
        "install onnxruntime-gpu in its place for a GPU."
    )
