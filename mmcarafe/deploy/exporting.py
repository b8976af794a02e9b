# SPDX-License-Identifier: Apache-2.0
"""A part of a detector as a program of ``torch.export``, and as ONNX of standard operators."""

import logging
import os
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.export import Dim, ExportedProgram

from mmcarafe.deploy.gathering import without_grid_sample
from mmcarafe.deploy.network import MIN_OPEN, MULTIPLE
from mmcarafe.deploy.ops import exportable
from mmcarafe.deploy.parts import Part
from mmcarafe.deploy.runtimes import optional, to_openvino
from mmcarafe.errors import InputError

OPSETS = range(19, 24)  # 19 brought deformable convolutions
MAX_IN_ONE_FILE = 1.9e9  # bytes of weights; a protocol buffer ends at 2 GiB


def program_of(part: Part, dynamic: bool, gather: bool = False) -> ExportedProgram:
    """Export a module with torch.export.

    Args:
        part (Part): what to export.
        dynamic (bool): for any batch and any size in steps of 32 pixels; of an upsampler alone any size.
        gather (bool): write ``grid_sample`` by gathers. Default: False.

    Returns:
        ExportedProgram: with this package's operators.

    Raises:
        InputError: the part cannot be exported, or not so.
    """
    shapes = None
    if dynamic:
        batch = Dim("batch", min=1)
        if part.scale:
            h, w = (Dim(name, min=1) for name in "hw")
            shapes = [{0: batch, 2: times * h, 3: times * w} for times in (1, part.scale)]
            shapes = shapes[: len(part.inputs)]
        else:
            h, w = (Dim(name, min=MIN_OPEN // MULTIPLE) for name in "hw")
            shapes = [{0: batch, 2: MULTIPLE // s * h, 3: MULTIPLE // s * w} for s in part.strides]
    if part.takes_levels:
        shapes = shapes and (tuple(shapes),)
    with torch.no_grad(), exportable():
        try:
            program = torch.export.export(
                part.module, part.inputs, dynamic_shapes=shapes and tuple(shapes), strict=False
            )
            return without_grid_sample(program) if gather else program
        except (RuntimeError, AssertionError) as error:
            reason = (str(error) or type(error).__name__).strip().splitlines()[0]
            if dynamic and isinstance(error, torch._dynamo.exc.UserError):
                raise InputError(
                    f"--dynamic: this model fixes a size while it runs ({reason}); leave --dynamic out"
                ) from error
            raise InputError(
                f"this part does not run, or not as a program, on images of this shape ({reason}); "
                "try another --part or a larger --shape"
            ) from error


def save(program: ExportedProgram, part: Part, path: Path, opset: int) -> None:
    """Write the program as ONNX, for OpenVINO where the file is named .xml, or as it is where it is .pt2.

    Files of the same names are replaced when the new ones are whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent) as folder:
        _write(program, part, Path(folder) / path.name, opset)
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):  # weights first
            os.replace(file, path.parent / file.name)


def _write(program: ExportedProgram, part: Part, path: Path, opset: int) -> None:
    if path.suffix == ".pt2":
        torch.export.save(program, path)
        return
    if path.suffix == ".xml":
        with TemporaryDirectory() as folder:
            source = Path(folder) / "model.onnx"
            _write(program, part, source, opset)
            to_openvino(source, path)
        return
    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own
        try:
            onnx = torch.onnx.export(
                program,
                dynamo=True,
                custom_translation_table=_translation_table(),
                opset_version=opset,
                input_names=["image"] if part.takes_images else None,
                output_names=part.outputs,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise InputError(
                f"a step of this model is not written as ONNX ({reason}); try another --part, or name the "
                "--output .pt2"
            ) from error
    weights = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    onnx.save(str(path), external_data=weights > MAX_IN_ONE_FILE)


def _translation_table() -> dict:
    optional("onnxscript", "onnx", "onnxruntime")
    from .onnx import translation_table

    return translation_table()
