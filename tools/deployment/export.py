# SPDX-License-Identifier: Apache-2.0
"""Export a model, or a part of it, to ONNX of standard operators, OpenVINO or torch.export, and check it.

Parts: ``detector`` goes from BGR images as OpenCV reads them (grey ones where the model takes one channel;
the normalisation is in the model) to boxes, scores, labels and masks; ``segmentor`` goes from them to the
scores of each pixel; ``raw`` ends at what the dense head predicts for each level, before boxes are selected;
``neck`` takes the backbone's levels; ``upsampler`` is the first upsampler alone, of any type. The format is
that of the output's name where ``--format`` is not given: ``.onnx``, ``.xml`` for OpenVINO, ``.pt2`` for a
program of ``torch.export``.

Examples::

    python tools/deployment/export.py CONFIG CHECKPOINT.pth --dynamic --verify
    python tools/deployment/export.py CONFIG CHECKPOINT.pth --format openvino --dynamic
    python tools/deployment/export.py CONFIG CHECKPOINT.pth --verify street.jpg
    python tools/deployment/export.py configs/carafe/rtmdet_s_carafe_8xb32-300e_coco.py --part neck
    python tools/deployment/export.py CONFIG --part neck --gather \
        --cfg-options model.neck.upsample_cfg.type=DySample
"""

import argparse
from pathlib import Path

from mmengine.runner import load_checkpoint

from mmcarafe.apis.config import read_config
from mmcarafe.apis.libraries import build_model
from mmcarafe.checkpoint.state_dict import check_checkpoint
from mmcarafe.deploy.exporting import OPSETS, program_of, save
from mmcarafe.deploy.network import MIN_SIDE, MULTIPLE
from mmcarafe.deploy.parts import PARTS, part_of
from mmcarafe.deploy.runtimes import ENGINES, SUFFIXES, megabytes, optional
from mmcarafe.deploy.verifying import other_inputs, verify
from mmcarafe.utils.cli import add_cfg_options, run


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Export a model or a part of it")
    parser.add_argument("config")
    parser.add_argument("checkpoint", nargs="?", help="without one the weights are random")
    parser.add_argument("--format", choices=SUFFIXES, help="default: by the name of --output, or onnx")
    parser.add_argument("--output", type=Path, help="default: model.onnx, model.xml or model.pt2")
    parser.add_argument("--part", choices=PARTS, help="default: the whole detector or segmentor")
    parser.add_argument("--shape", nargs=2, type=int, default=[800, 1344], metavar=("H", "W"))
    parser.add_argument("--dynamic", action="store_true", help="any batch, height and width (steps of 32)")
    parser.add_argument(
        "--gather", action="store_true", help="sample points (DySample, DLU) by gathers, without GridSample"
    )
    parser.add_argument("--opset", type=int, default=19, choices=OPSETS)
    parser.add_argument(
        "--verify",
        nargs="*",
        metavar="IMAGE",
        help="compare with PyTorch and time both, also on these images; --dynamic is always compared",
    )
    parser.add_argument("--tolerance", type=float, default=1e-3, help="largest error / largest value allowed")
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    if any(size < MIN_SIDE or size % MULTIPLE for size in args.shape):
        parser.error(f"--shape: expected multiples of {MULTIPLE}, {MIN_SIDE} or more, got {args.shape}")
    suffix = SUFFIXES.get(args.format) or (args.output.suffix if args.output else ".onnx")
    args.output = args.output or Path(f"model{suffix}")
    if args.output.suffix != suffix or suffix not in ENGINES:
        wanted = SUFFIXES.get(args.format) or ", ".join(ENGINES)
        parser.error(f"--output: expected a name that ends in {wanted}, got {args.output}")
    return args


def main(argv: list[str] | None = None) -> None:
    """Export, and check."""
    args = parse_args(argv)
    if args.output.suffix == SUFFIXES["openvino"]:
        optional("openvino")  # what is missing is said before the export, which takes a while
    model = build_model(read_config(args.config, args.cfg_options))
    if args.checkpoint:
        check_checkpoint(model, args.checkpoint)
        load_checkpoint(model, args.checkpoint, map_location="cpu")
    else:
        print("no checkpoint given: the weights are random")
    part = part_of(model, args.part, args.shape, batch=2 if args.dynamic else 1)
    part.module.eval()
    check = args.verify is not None or args.dynamic  # which may fail on other sizes than the traced ones
    inputs = other_inputs(part, args.shape, args.dynamic, args.verify or ()) if check else {}
    path = args.output
    save(program_of(part, args.dynamic, args.gather), part, path, args.opset)
    print(f"written: {path}, {megabytes(path):.1f} MB")
    if check:
        verify(path, part, inputs, timed=args.verify is not None, tolerance=args.tolerance)


if __name__ == "__main__":
    run(main)
