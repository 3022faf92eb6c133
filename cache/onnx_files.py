"""A torch module as an ONNX file, for onnxruntime. Both packages are optional (extra `onnx`)."""

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stal_data.errors import InputError, how_to_install

_OPSET = 18
"""As Ultralytics takes for present torch: later ones lack kernels for GPUs."""
MAX_BYTES = 2**31 - 2**24
"""Of the numbers in one file: protobuf ends at 2 GiB, and the graph takes some."""


def import_onnx(path: Path) -> tuple[Any, Any]:
    """The packages onnx and onnxruntime; where one is missing, an error that says how to install it."""
    try:
        import onnx
        import onnxruntime
    except ModuleNotFoundError as error:
        raise InputError(f"For '{path}' the package '{error.name}' is needed; {how_to_install('onnx')}") from None
    return onnx, onnxruntime


def write_onnx(
    path: Path,
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    *,
    free: Mapping[str, str],
    metadata: Mapping[str, str],
) -> None:
    """Write the module's computation, traced on these inputs; the same weights give the same bytes.

    Sizes become constants. free: inputs and outputs whose first axis may be of any length, and names of these axes.
    Numbers of more than `MAX_BYTES` go to a second file, `path` with `.data` behind it.
    """
    onnx, _ = import_onnx(path)
    with tempfile.TemporaryDirectory(prefix="stal-onnx-", dir=path.parent) as folder, warnings.catch_warnings():
        # About sizes that become constants.
        warnings.simplefilter("ignore")
        traced = Path(folder, "model.onnx")
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            str(traced),  # no Path: beside it go the numbers of a large module
            dynamo=False,  # the other one needs two packages more
            opset_version=_OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: {0: axis} for name, axis in free.items()},
        )
        model = onnx.load(traced)
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    tensors = model.graph.initializer
    if sum(len(tensor.raw_data) for tensor in tensors) > MAX_BYTES:
        for tensor in tensors:
            onnx.external_data_helper.set_external_data(tensor, f"{path.name}.data")
        onnx.external_data_helper.write_external_data_tensors(model, str(path.parent))
    path.write_bytes(model.SerializeToString(deterministic=True))
