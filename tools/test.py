# SPDX-License-Identifier: Apache-2.0
"""Evaluate a checkpoint of a detector or segmentor; the command line is that of mmdet's tools/test.py."""

import argparse
from copy import deepcopy
from pathlib import Path

from mmengine.registry import MODELS
from torch import nn

from mmcarafe.apis.config import load_config
from mmcarafe.apis.libraries import library_of, scope_of
from mmcarafe.checkpoint.state_dict import check_state, read_state_dict
from mmcarafe.datasets.configured import check_data
from mmcarafe.engine.runner import Runner, build_runner
from mmcarafe.errors import InputError
from mmcarafe.utils.cli import add_options, run


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Evaluate a detector or segmentor")
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file")
    add_options(parser)
    parser.add_argument("--out", help="write the predictions to this pickle file, for offline evaluation")
    parser.add_argument("--show", action="store_true", help="show the predictions in a window")
    parser.add_argument("--show-dir", help="write a picture of the predictions for each image there")
    parser.add_argument("--wait-time", type=float, default=2, help="seconds between shown pictures")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Build the runner from the config, load the checkpoint and evaluate."""
    args = parse_args(argv)
    if args.out and not args.out.endswith((".pkl", ".pickle")):
        raise InputError(f"--out: expected a .pkl or .pickle file, got {args.out}")
    if args.out:  # before the evaluation, not after it
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        if Path(args.out).is_dir():
            raise InputError(f"--out {args.out} is a folder: expected a .pkl or .pickle file")
    cfg = load_config(args)
    library = library_of(cfg)
    cfg.load_from = args.checkpoint
    if args.show or args.show_dir:
        library.show_predictions(cfg, args)
    if args.tta:
        library.use_tta(cfg)
    check_data(cfg, "test")
    runner = build_runner(cfg)
    # a FlexibleRunner builds its model later
    model = runner.model if isinstance(runner.model, nn.Module) else MODELS.build(deepcopy(cfg.model))
    if args.tta:
        library.check_tta(model)
    checkpoint, state = read_state_dict(args.checkpoint)
    check_state(model, args.checkpoint, state)
    if model is not runner.model and checkpoint is state:
        raise InputError(
            f"checkpoint {args.checkpoint} holds weights alone, and a {type(runner).__name__} asks for a "
            "state_dict: save them by torch.save(dict(state_dict=weights), path)"
        )
    del model
    if isinstance(runner, Runner):
        runner.checkpoint = checkpoint
    del checkpoint, state  # so that they are gone when they have been loaded
    if args.out:
        runner.test_evaluator.metrics.append(library.Dump(out_file_path=args.out))
    runner.register_hook(dict(type=f"{scope_of(cfg)}.NumClassCheckHook"))
    runner.test()


if __name__ == "__main__":
    run(main)
