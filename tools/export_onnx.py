# SPDX-License-Identifier: Apache-2.0
"""Export a detector, or a part of it, to ONNX of standard operators, and check the file with ONNX Runtime.

Parts: ``raw`` is backbone, neck and dense head, from a BGR image as OpenCV reads it (the normalisation is
in the model) to what the head predicts for each level, before boxes are selected; ``neck`` takes the
backbone's levels; ``upsampler`` is the first CARAFE module alone. A file named ``.pt2`` is a program of
``torch.export`` instead.

Examples::

    python tools/export_onnx.py configs/carafe/retinanet_r50_fpn-carafe_1x_coco.py W.pth --dynamic --verify
    python tools/export_onnx.py configs/carafe/rtmdet_s_carafe_8xb32-300e_coco.py --part neck
"""

import argparse
import logging
import sys
import warnings
from pathlib import Path

import torch
from common import InputError, add_cfg_options, build_detector, check_checkpoint, read_config, run
from mmdet.models import SingleStageDetector, TwoStageDetector
from mmdet.models.detectors.single_stage_instance_seg import SingleStageInstanceSegmentor
from mmengine.runner import load_checkpoint
from onnx_verify import verify
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mmcarafe.layers import CARAFE

try:
    from mmcarafe.models.onnx import exportable, translation_table
except ImportError as error:
    sys.exit(
        f"export_onnx.py: the export needs onnxscript ({error}); pip install onnx onnxscript onnxruntime"
    )

MULTIPLE = 32  # sides of images: the coarsest level of a dynamic model has to be whole
DENSE = (SingleStageDetector, SingleStageInstanceSegmentor, TwoStageDetector)
LEAST = 192  # the coarsest level of what is exported, and of what is compared, must have more than one row
OPSETS = range(19, 24)  # 19 brought deformable convolutions
MOST_IN_ONE_FILE = 1.9e9  # bytes of weights; a protocol buffer ends at 2 GiB


class Raw(nn.Module):
    """Backbone, neck and dense head: Tensor[N, 3, H, W], BGR from 0 to 255, to what the head predicts."""

    def __init__(self, detector: nn.Module):
        super().__init__()
        heads = (getattr(detector, name, None) for name in ("rpn_head", "bbox_head", "mask_head"))
        self.head = next((head for head in heads if head is not None), None)
        if self.head is None or not isinstance(detector, DENSE):
            raise InputError(f"{type(detector).__name__} has no dense head to export; try --part neck")
        self.backbone, self.neck = detector.backbone, getattr(detector, "neck", None) or nn.Identity()
        preprocessor = detector.data_preprocessor
        self.flip = preprocessor._channel_conversion
        self.register_buffer("mean", getattr(preprocessor, "mean", torch.zeros(1)).view(1, -1, 1, 1))
        self.register_buffer("std", getattr(preprocessor, "std", torch.ones(1)).view(1, -1, 1, 1))

    def forward(self, image: Tensor) -> tuple:
        """Outputs of the head for each level."""
        image = image.flip(1) if self.flip else image
        return self.head(self.neck(self.backbone((image - self.mean) / self.std)))


class Neck(nn.Module):
    """The neck alone, which takes the levels one by one."""

    def __init__(self, detector: nn.Module):
        super().__init__()
        self.neck = detector.neck

    def forward(self, *levels: Tensor) -> tuple[Tensor, ...]:
        """The neck's maps."""
        return tuple(self.neck(levels))


def part_of(
    detector: nn.Module, part: str, shape: list[int]
) -> tuple[nn.Module, tuple[Tensor, ...], list[int]]:
    """What is exported, inputs for a batch of two images of this shape, and the stride of each input."""
    image = torch.rand(2, 3, *shape) * 255
    if part == "raw":
        return Raw(detector), (image,), [1]
    if part == "neck":
        if getattr(detector, "neck", None) is None:
            raise InputError("--part neck: this config has no neck")
        with torch.no_grad():
            levels = detector.backbone(image)
        return (
            Neck(detector),
            tuple(torch.rand_like(x) for x in levels),
            [shape[0] // x.shape[2] for x in levels],
        )
    layer = next((m for m in detector.modules() if isinstance(m, CARAFE)), None)
    if layer is None:
        raise InputError("--part upsampler: this config has no CARAFE module")
    return layer, (torch.rand(2, layer.channels, shape[0] // 8, shape[1] // 8),), [8]


def program_of(
    module: nn.Module, inputs: tuple[Tensor, ...], strides: list[int], dynamic: bool
) -> ExportedProgram:
    """The module as torch.export sees it; ``dynamic``: for any batch and any size in steps of 32 pixels."""
    shapes = None
    if dynamic:
        batch = Dim("batch", min=1)
        if strides == [8]:  # an upsampler alone has no coarser level to respect
            shapes = [{0: batch, 2: Dim("h", min=1), 3: Dim("w", min=1)}]
        else:
            h, w = (Dim(name, min=LEAST // MULTIPLE - 1) for name in "hw")
            shapes = [{0: batch, 2: MULTIPLE // s * h, 3: MULTIPLE // s * w} for s in strides]
    if isinstance(module, Neck):
        shapes = shapes and (tuple(shapes),)
    with torch.no_grad(), exportable():
        try:
            return torch.export.export(module, inputs, dynamic_shapes=shapes and tuple(shapes), strict=False)
        except torch._dynamo.exc.UserError as error:
            if not dynamic:
                raise
            reason = str(error).strip().splitlines()[0]
            raise InputError(
                f"--dynamic: this model fixes a size while it runs ({reason}); leave --dynamic out"
            ) from error


def save(program: ExportedProgram, path: Path, opset: int) -> None:
    """Write the program, as ONNX unless the file is named .pt2."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pt2":
        torch.export.save(program, path)
        return
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own
        onnx = torch.onnx.export(
            program,
            dynamo=True,
            custom_translation_table=translation_table(),
            opset_version=opset,
            verbose=False,
        )
    weights = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    onnx.save(str(path), external_data=weights > MOST_IN_ONE_FILE)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Export a detector or a part of it to ONNX")
    parser.add_argument("config")
    parser.add_argument("checkpoint", nargs="?", help="without one the weights are random")
    parser.add_argument("--output", default="model.onnx", help=".onnx, or .pt2 for a program of torch.export")
    parser.add_argument("--part", default="raw", choices=("raw", "neck", "upsampler"))
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
    module, inputs, strides = part_of(detector.eval(), args.part, args.shape)
    path = Path(args.output)
    save(program_of(module.eval(), inputs, strides, args.dynamic), path, args.opset)
    print(f"written: {path}, {path.stat().st_size / 1e6:.1f} MB")
    if args.verify is not None or args.dynamic:  # which may fail on other sizes than the traced ones
        verify(path, module, inputs, args)


if __name__ == "__main__":
    run(main)
