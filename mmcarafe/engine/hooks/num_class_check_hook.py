# SPDX-License-Identifier: Apache-2.0
"""mmdet's check that a model's heads have as many classes as its data sets, made before the first step."""

from mmdet.engine import hooks
from mmdet.registry import HOOKS
from mmengine.runner import Runner

from mmcarafe.datasets.class_counts import check_class_counts


@HOOKS.register_module(force=True)
class NumClassCheckHook(hooks.NumClassCheckHook):
    """mmdet's NumClassCheckHook, for every kind of head, before training begins and in tests too.

    Raises:
        DataError: a head is for another number of classes than a data set has.
    """

    def _check_head(self, runner: Runner, mode: str) -> None:
        dataset = getattr(runner, f"{mode}_dataloader").dataset
        check_class_counts(runner.model, dataset, f"{mode}_dataloader.dataset")

    def before_train(self, runner: Runner) -> None:
        """Check the data set that is learnt, and the one whose turn for validation comes later."""
        self._check_head(runner, "train")
        if runner.val_loop is not None:
            self._check_head(runner, "val")

    def before_test_epoch(self, runner: Runner) -> None:
        """Check the data set of the test."""
        self._check_head(runner, "test")
