# SPDX-License-Identifier: Apache-2.0
"""Checkpoints from which a killed training goes on exactly; registered under mmengine's name.

mmengine writes a checkpoint straight to its final name, removes the old one before the new one is there, and
does not store the state of the random number generators; ``docs/resume.md`` says what holds with this hook.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from mmengine import hooks
from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from mmcarafe.checkpoint.random_state import is_epoch_complete, random_state, set_random_state
from mmcarafe.checkpoint.resuming import output_folder
from mmcarafe.checkpoint.state_dict import unwrap
from mmcarafe.checkpoint.writing import PARTIAL_SUFFIX, WholeFileBackend


class CheckpointHook(hooks.CheckpointHook):
    """mmengine's CheckpointHook, with whole files and the random state of each process in them.

    Arguments and file names are mmengine's. An outdated checkpoint (``max_keep_ckpts``, ``save_best``) is
    removed once its successor is written, so that for this long there is one more; a resumed run removes
    nothing but checkpoints in its own folder, whatever paths the checkpoint it goes on from has. Validation
    leaves the random numbers of training as they were: a run that is resumed does not repeat it.
    """

    _before_val: dict | None = None
    _resumed: dict | None = None
    _resumed_epoch = 0
    _batches = (0, 1)  # of the epoch: learnt, and all

    def before_train(self, runner: Runner) -> None:
        """Choose how files are written, and go on with the random numbers of a resumed run."""
        local = type(get_file_backend(self.out_dir or runner.work_dir, backend_args=self.backend_args))
        if local is LocalBackend and self.file_client_args is None:
            self.backend_args = dict(backend="mmcarafe_local")
            self._forget_foreign_checkpoints(runner)
        super().before_train(runner)
        if is_main_process() and isinstance(self.file_backend, WholeFileBackend):
            for unfinished in Path(self.out_dir).glob(f"*.pth{PARTIAL_SUFFIX}"):
                if not unfinished.is_dir():
                    runner.logger.warning(f"removing {unfinished}, which a run was killed while writing")
                    unfinished.unlink()
        if runner.iter > 0:
            self._continue(runner)

    def _forget_foreign_checkpoints(self, runner: Runner) -> None:
        """Drop what a resumed checkpoint says of others to remove, unless they are this run's own files."""
        known = runner.message_hub.runtime_info
        out_dir = output_folder(runner.work_dir, self.out_dir)
        for name in [name for name in known if name.startswith("best_ckpt")]:
            # of a run whose folder was moved or copied, the file of this name that is here
            own = out_dir / Path(str(known[name])).name
            if own.name.startswith("best_") and own.suffix == ".pth" and own.is_file():
                known[name] = str(own)
            else:
                del known[name]
        steps = known.get("keep_ckpt_ids", [])
        if not isinstance(steps, list) or not all(type(step) is int for step in steps):
            del known["keep_ckpt_ids"]

    def _continue(self, runner: Runner) -> None:
        loop, resumed = runner.train_loop, self._resumed or {}
        epochs = isinstance(loop, EpochBasedTrainLoop)
        # another of these hooks may have counted it
        if epochs and is_epoch_complete(resumed) and runner.epoch == self._resumed_epoch:
            _count_epoch(runner)
        if len(resumed.get("random", [])) != get_world_size():
            runner.logger.warning(
                "the checkpoint holds no random state for this number of processes: training goes on with "
                "other random numbers than without the interruption"
            )
            return
        if epochs:
            batches = len(loop.dataloader)
            # absent in files of older versions
            done, every = resumed.get("batches", (runner.iter % batches, batches))
            if 0 < done < every:
                runner.logger.warning("resumed in the middle of an epoch: mmengine begins this epoch anew")
        for resize, size in zip(_resizers(runner), resumed["input_sizes"], strict=False):
            resize._input_size = size
        restore = partial(set_random_state, resumed["random"][get_rank()])
        # with this option of onedl-mmengine's no batch is skipped
        if isinstance(loop, IterBasedTrainLoop) and not getattr(loop, "fast_forward_on_resume", False):
            # it first skips the batches the run had seen, which can take random numbers
            loop.dataloader_iterator = _Resumed(loop.dataloader_iterator, runner.iter, restore)
        else:
            restore()

    def after_train_iter(self, runner: Runner, batch_idx: int, *args, **kwargs) -> None:
        """Save a checkpoint where it is due by iterations."""
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            self._batches = (batch_idx + 1, len(runner.train_dataloader))
        super().after_train_iter(runner, batch_idx, *args, **kwargs)
        self._batches = (0, 1)

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        """Save the best; write the newest checkpoint again where the schedule went by the metrics."""
        super().after_val_epoch(runner, metrics)
        if not isinstance(runner.param_schedulers, list) or self.last_ckpt is None:
            return
        step = runner.epoch if self.by_epoch else runner.iter
        newest = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))
        by_metrics = any(getattr(each, "need_val_args", False) for each in runner.param_schedulers)
        if self.last_ckpt == newest and by_metrics:
            self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=runner.iter))

    def before_val(self, runner: Runner) -> None:
        """Keep the random state of training."""
        self._before_val = random_state()

    def after_val(self, runner: Runner) -> None:
        """Go on with the random state of training."""
        set_random_state(self._before_val)
        self._before_val = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep a resumed run's state until training begins."""
        meta = checkpoint.get("meta")
        self._resumed = meta.get("mmcarafe") if isinstance(meta, dict) else None
        self._resumed_epoch = meta.get("epoch") if isinstance(meta, dict) else None

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        # every process comes here, but only the first one calls the hooks for saving
        states = all_gather_object(self._before_val or random_state())
        sizes = [resize._input_size for resize in _resizers(runner)]
        meta["mmcarafe"] = dict(random=states, input_sizes=sizes, batches=list(self._batches))
        with self._outdated_removed_last(runner):
            super()._save_checkpoint_with_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        with self._outdated_removed_last(runner):
            super()._save_best_checkpoint(runner, metrics)

    @contextmanager
    def _outdated_removed_last(self, runner: Runner) -> Iterator[None]:
        """Put off what mmengine removes until what it writes is there."""
        outdated, remove = [], self.file_backend.remove
        self.file_backend.remove = outdated.append
        try:
            yield
        finally:
            self.file_backend.remove = remove
        written = [value for value in runner.message_hub.runtime_info.values() if isinstance(value, str)]
        for path in outdated:
            if path not in written:
                remove(path)


def _count_epoch(runner: Runner) -> None:
    """Count an epoch at whose end a checkpoint was written by iterations, before mmengine counts it."""
    runner.train_loop._epoch += 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `scheduler.step")  # the run before had its steps
        for hook in runner.hooks:
            if isinstance(hook, hooks.ParamSchedulerHook):
                hook.after_train_epoch(runner)


class _Resumed:
    """The same batches; ``restore`` is called when the first is asked for that is not skipped."""

    def __init__(self, batches: Iterator, count: int, restore: Callable[[], None]) -> None:
        self._batches, self._left, self._restore = batches, count, restore

    def __next__(self) -> object:
        if self._left == 0:
            if hasattr(self._batches, "_ensure_iterator"):  # onedl-mmengine's draws a seed when it starts
                self._batches._ensure_iterator()
            self._restore()
        self._left -= 1
        return next(self._batches)

    def skip_iter(self, count: int) -> None:
        """Skip batches as onedl-mmengine does, without loading them."""
        self._batches.skip_iter(count)
        self._left -= count


def _resizers(runner: Runner) -> list:
    """List mmdet's batch augmentations that keep a random size over iterations (YOLOX)."""
    preprocessor = getattr(unwrap(runner.model), "data_preprocessor", None)
    augments = getattr(preprocessor, "batch_augments", None) or []
    return [augment for augment in augments if hasattr(augment, "_input_size")]
