# SPDX-License-Identifier: Apache-2.0
"""Pictures of predictions, one for each image of a test, whatever folders the images are in."""

import os
from collections.abc import Sequence
from pathlib import Path

from mmdet.engine.hooks import DetVisualizationHook
from mmdet.registry import HOOKS
from mmdet.structures import DetDataSample
from mmengine.runner import Runner


@HOOKS.register_module()
class MirroredVisualizationHook(DetVisualizationHook):
    """mmdet's DetVisualizationHook, which puts the pictures of a test into sub-folders as the images are.

    mmdet's puts all into one folder under the names of the images, where of equal names the last one stays.
    Below ``test_out_dir`` are the folders below the one that all images of the test have in common. The
    arguments are mmdet's: a relative ``test_out_dir`` is below the run's own folder in its work directory.
    """

    _common = ""

    def before_test_epoch(self, runner: Runner) -> None:
        """Look up which folder all images are in."""
        if self.draw and self.test_out_dir is not None:
            dataset = runner.test_loop.dataloader.dataset
            paths = (dataset.get_data_info(n)["img_path"] for n in range(len(dataset)))
            self._common = os.path.commonpath({os.path.dirname(os.path.abspath(path)) for path in paths})

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[DetDataSample]
    ) -> None:
        """Draw as mmdet does, each image into its own folder."""
        out_dir = self.test_out_dir
        for sample in outputs:
            if out_dir is not None:
                path = Path(os.path.abspath(sample.img_path))
                self.test_out_dir = str(Path(out_dir) / path.parent.relative_to(self._common))
            super().after_test_iter(runner, batch_idx, data_batch, [sample])
        self.test_out_dir = out_dir
