# SPDX-License-Identifier: Apache-2.0
"""Export a detector, or a part of it, to ONNX of standard operators, and check the file with ONNX Runtime.

Parts: ``detector`` goes from BGR images as OpenCV reads them (grey ones where the model takes one channel;
the normalisation is in the model) to boxes,
scores, labels and masks; ``raw`` ends at what the dense head predicts for each level, before boxes are
selected; ``neck`` takes the backbone's levels; ``upsampler`` is the first CARAFE module alone. A file named
``.pt2`` is a program of ``torch.export`` instead.

Examples::

    python tools/export_onnx.py configs/carafe/retinanet_r50_fpn-carafe_1x_coco.py W.pth --dynamic --verify
    python tools/export_onnx.py configs/carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py W.pth --verify street.jpg
    python tools/export_onnx.py configs/carafe/rtmdet_s_carafe_8xb32-300e_coco.py --part neck
"""

import argparse
import logging
import sys
import warnings
from pathlib import Path

import torch
from common import InputError, add_cfg_options, build_detector, read_config, run
from mmengine.runner import load_checkpoint
from onnx_parts import PARTS, Part, part_of
from onnx_verify import verify
from torch.export import Dim, ExportedProgram
from weights import check_checkpoint

from mmcarafe.models.deploy_ops import exportable

try:
    from mmcarafe.models.onnx import translation_table
except ImportError as error:
    sys.exit(
        f"export_onnx.py: the export needs onnxscript ({error}); pip install onnx onnxscript onnxruntime"
    )

MULTIPLE = 32  # sides of images: the coarsest level of a dynamic model has to be whole
LEAST = 192  # the coarsest level of what is exported, and of what is compared, must have more than one row
OPSETS = range(19, 24)  # 19 brought deformable convolutions
MOST_IN_ONE_FILE = 1.9e9  # bytes of weights; a protocol buffer ends at 2 GiB


def program_of(part: Part, dynamic: bool) -> ExportedProgram:
    """The module as torch.export sees it; ``dynamic``: for any batch and any size in steps of 32 pixels."""
    shapes = None
    if dynamic:
        batch = Dim("batch", min=1)
        if part.strides == [8]:  # an upsampler alone has no coarser level to respect
            shapes = [{0: batch, 2: Dim("h", min=1), 3: Dim("w", min=1)}]
        else:
            h, w = (Dim(name, min=LEAST // MULTIPLE - 1) for name in "hw")
            shapes = [{0: batch, 2: MULTIPLE // s * h, 3: MULTIPLE // s * w} for s in part.strides]
    if part.takes_levels:
        shapes = shapes and (tuple(shapes),)
    with torch.no_grad(), exportable():
        try:
            return torch.export.export(
                part.module, part.inputs, dynamic_shapes=shapes and tuple(shapes), strict=False
            )
        except (RuntimeError, AssertionError) as error:
            reason = (str(error) or type(error).__name__).strip().splitlines()[0]
            if dynamic and isinstance(error, torch._dynamo.exc.UserError):
                raise InputError(
                    f"--dynamic: this model fixes a size while it runs ({reason}); leave --dynamic out"
                ) from error
            raise InputError(
                f"this part does not run, or not as a program, on two images of this shape ({reason}); "
                "try another --part or a larger --shape"
            ) from error


def save(program: ExportedProgram, part: Part, path: Path, opset: int) -> None:
    """Write the program, as ONNX unless the file is named .pt2."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pt2":
        torch.export.save(program, path)
        return
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own
        try:
            onnx = torch.onnx.export(
                program,
                dynamo=True,
                custom_translation_table=translation_table(),
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
    onnx.save(str(path), external_data=weights > MOST_IN_ONE_FILE)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Export a detector or a part of it to ONNX")
    parser.add_argument("config")
    parser.add_argument("checkpoint", nargs="?", help="without one the weights are random")
    parser.add_argument("--output", default="model.onnx", help=".onnx, or .pt2 for a program of torch.export")
    parser.add_argument("--part", default="detector", choices=PARTS)
    parser.add_argument("--shape", nargs=2, type=int, default=[800, 1344], metavar=("H", "W"))
    parser.add_argument("--dynamic", action="store_true", help="any batch, height and width (steps of 32)")
    parser.add_argument("--opset", type=int, default=19, choices=OPSETS)
    parser.add_argument(
        "--verify",
        nargs="*",
        metavar="IMAGE",
        help="compare with PyTorch and time both, also on these images; --dynamic is always compared",
    )
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest error / largest value allowed")
    add_cfg_options(parser)
    args = parser.parse_args()
    if any(size < LEAST or size % MULTIPLE for size in args.shape):
        parser.error(f"--shape: expected multiples of {MULTIPLE}, {LEAST} or more, got {args.shape}")
    return args


def main() -> None:
    """Export, and check."""
    args = parse_args()
    detector = build_detector(read_config(args.config, args.cfg_options))
    if args.checkpoint:
        check_checkpoint(detector, args.checkpoint)
        load_checkpoint(detector, args.checkpoint, map_location="cpu")
    else:
        print("no checkpoint given: the weights are random")
    part = part_of(detector, args.part, args.shape)
    part.module.eval()
    path = Path(args.output)
    save(program_of(part, args.dynamic), part, path, args.opset)
    print(f"written: {path}, {path.stat().st_size / 1e6:.1f} MB")
    if args.verify is not None or args.dynamic:  # which may fail on other sizes than the traced ones
        verify(path, part, args)


if __name__ == "__main__":
    run(main)
