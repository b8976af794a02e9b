# SPDX-License-Identifier: Apache-2.0
"""The formats that a detector is written in, and what runs them on a CPU."""

import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mmcarafe.errors import InputError

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
"""The ending of a file of each format; OpenVINO's weights lie beside it, in a file that ends in .bin."""

ENGINES = {".onnx": "ONNX Runtime", ".xml": "OpenVINO", ".pt2": "torch.export"}
"""What runs a file, by its ending."""


def optional(name: str, *others: str) -> ModuleType:
    """Import a package that not every installation has; raise InputError with what to install."""
    try:
        return import_module(name)
    except ImportError as error:
        packages = " ".join((name, *others))
        raise InputError(f"this format needs {packages} ({error}): pip install {packages}") from error


def runtime(path: Path) -> tuple[Callable[[tuple[Tensor, ...]], list[Tensor]], float]:
    """Return a function that runs the exported file, and the seconds it took to load.

    Raises:
        InputError: the package that runs this format is not installed.
    """
    load = {".onnx": _onnx_runtime, ".xml": _openvino, ".pt2": _program}[path.suffix]
    package = {".onnx": "onnxruntime", ".xml": "openvino", ".pt2": "torch"}[path.suffix]
    module = optional(package)
    start = time.perf_counter()
    return load(module, path), time.perf_counter() - start


def _onnx_runtime(onnxruntime: ModuleType, path: Path) -> Callable:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]

    def run(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        feeds = dict(zip(names, (t.numpy() for t in inputs), strict=True))
        return [torch.from_numpy(out) for out in session.run(None, feeds)]

    return run


def _openvino(openvino: ModuleType, path: Path) -> Callable:
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",  # a processor with bfloat16 would use that
    }
    model = openvino.Core().compile_model(str(path), "CPU", settings)

    def run(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        found = model([t.numpy() for t in inputs])
        return [torch.from_numpy(found[i].copy()) for i in range(len(model.outputs))]

    return run


def _program(_: ModuleType, path: Path) -> Callable:
    program = torch.export.load(path).module()
    return lambda inputs: tree_leaves(program(*inputs))


def megabytes(path: Path) -> float:
    """Return the size of an exported file, with weights beside it: OpenVINO's, or large ones of ONNX."""
    weights = path.with_suffix(".bin") if path.suffix == ".xml" else path.with_name(f"{path.name}.data")
    return sum(file.stat().st_size for file in (path, weights) if file.exists()) / 1e6


def to_openvino(source: Path, path: Path) -> None:
    """Write an ONNX file as OpenVINO's, in float32."""
    openvino, onnx = optional("openvino"), optional("openvino.frontend.onnx")
    deform = onnx.ConversionExtension("DeformConv", _deform_conv)
    model = openvino.convert_model(str(source), extension=[deform])
    openvino.save_model(model, str(path), compress_to_fp16=False)


def _deform_conv(node: object) -> list:
    """Write ONNX's DeformConv, which OpenVINO has as an operator but does not read from ONNX."""
    x, weight, offset = (node.get_input(i) for i in range(3))
    pads = node.get_attribute("pads")
    half = len(pads) // 2
    out = optional("openvino.opset8").deformable_convolution(
        x,
        offset,
        weight,
        node.get_attribute("strides"),
        pads[:half],
        pads[half:],
        node.get_attribute("dilations"),
        group=node.get_attribute("group"),
        deformable_group=node.get_attribute("offset_group"),
        bilinear_interpolation_pad=True,
    )
    return out.outputs()
