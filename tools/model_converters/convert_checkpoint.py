# SPDX-License-Identifier: Apache-2.0
"""Bring CARAFE weights of other implementations into this package's parameter names."""

import argparse

from mmcarafe.checkpoint.converting import ACTIVATION_HELP, FORWARD, check_target, convert, write
from mmcarafe.checkpoint.state_dict import check_finite, read_state_dict
from mmcarafe.utils.cli import run


def main(argv: list[str] | None = None) -> None:
    """Read, convert, report, write."""
    parser = argparse.ArgumentParser(description="Convert CARAFE weights of other implementations")
    parser.add_argument("source", help="checkpoint or state dict")
    parser.add_argument("target", help="file to write")
    parser.add_argument(
        "--activation", choices=["none", "compressor", "encoder", "both"], help=ACTIVATION_HELP
    )
    parser.add_argument("--bn-eps", type=float, default=1e-5, help="eps of the source's BatchNorm (1e-5; "
                        "YOLO models often have 1e-3)")  # fmt: skip
    args = parser.parse_args(argv)
    if not 0 <= args.bn_eps < 1:
        parser.error(f"--bn-eps: expected a number from 0 to below 1, got {args.bn_eps:g}")
    check_target(args.target)
    checkpoint, state = read_state_dict(args.source)
    check_finite(args.source, state)
    before = set(state)
    for line in convert(state, args.activation, args.bn_eps):
        print(line)
    for name in ("optimizer", "ema_state_dict") if set(state) != before else ():
        if checkpoint is not state and checkpoint.pop(name, None) is not None:
            print(f"{name}: left out; it belongs to the old names")
    if args.activation:
        print(FORWARD)
    if args.activation == "both":
        print("use it with upsample_cfg=dict(type='CARAFE', act_cfg=dict(type=<the source's>))")
    write(checkpoint, args.target)
    print(f"wrote {args.target}")


if __name__ == "__main__":
    run(main)
