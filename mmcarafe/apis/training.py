# SPDX-License-Identifier: Apache-2.0
"""A training as train.py starts it: its runner, with the checkpoint that it starts from checked."""

from mmengine import runner as mmengine_runner
from mmengine.config import Config
from mmengine.dist import all_gather_object

from mmcarafe.apis.libraries import scope_of
from mmcarafe.checkpoint.resuming import check_fit, checkpoint_to_resume, read_training_state
from mmcarafe.checkpoint.state_dict import check_finite, load_start, read_state_dict
from mmcarafe.engine.runner import Runner, build_runner
from mmcarafe.errors import InputError


def prepare_training(cfg: Config, resume: str | None = None) -> mmengine_runner.Runner:
    """Build the runner of a config, ready to train.

    Args:
        cfg (Config): training starts from the weights in its ``load_from``, if any. ``resume=True`` in it is
            ``resume`` here, of ``load_from`` or, where there is none, ``"auto"``.
        resume (str, optional): a checkpoint to go on from; ``"auto"`` is the newest whole one of the work
            directory, and where there is none training starts as without it. Default: None.

    Returns:
        Runner: the class that the config names, else :class:`mmcarafe.engine.runner.Runner`.

    Raises:
        InputError: the checkpoint is none, does not fit the run, or is not the same in all processes.
    """
    checkpoint, notes = None, []
    resume = resume or None
    if cfg.get("resume") and not resume:
        resume = cfg.get("load_from") or "auto"
    if resume == "auto":
        resume, checkpoint, notes = checkpoint_to_resume(cfg)
        if resume is None:
            start = f", from the weights in {cfg.load_from}" if cfg.get("load_from") else ""
            notes = [
                f"{cfg.work_dir} holds no checkpoint to resume from: training starts at the beginning{start}"
            ]
    elif resume:
        checkpoint = read_training_state(resume)
    cfg.resume, cfg.load_from = resume is not None, resume or cfg.get("load_from")
    runner = build_runner(cfg)
    checkpoints = set(all_gather_object(cfg.load_from))
    if len(checkpoints) > 1:
        raise InputError(
            f"the processes find different checkpoints to start from ({', '.join(map(str, checkpoints))}): "
            f"every machine must see the same work directory, {cfg.work_dir}"
        )
    for note in notes:
        runner.logger.warning(note)
    if cfg.get("load_from"):
        checkpoint = check_start(runner, cfg, checkpoint)
        if isinstance(runner, Runner):
            runner.checkpoint = checkpoint
    runner.register_hook(dict(type=f"{scope_of(cfg)}.NumClassCheckHook"))
    return runner


def check_start(runner: mmengine_runner.Runner, cfg: Config, checkpoint: dict | None) -> dict:
    """Return the checkpoint that training starts from, which is read unless it is given.

    Raises:
        InputError: it does not fit the run, or it is none.
    """
    knows_model = isinstance(runner, mmengine_runner.Runner)  # a FlexibleRunner builds its model later
    if cfg.get("resume") and knows_model:
        check_fit(runner, cfg.load_from, checkpoint)
        return checkpoint
    checkpoint, state = read_state_dict(cfg.load_from)
    check_finite(cfg.load_from, state)
    if knows_model:
        for line in load_start(runner.model, cfg.load_from, state):
            runner.logger.info(line)
    return checkpoint
