# SPDX-License-Identifier: Apache-2.0
"""Pictures of predictions, one for each image of a test, whatever folders the images are in."""

from collections.abc import Sequence
from pathlib import Path

import mmcv
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.registry import HOOKS
from mmdet.structures import DetDataSample
from mmengine.fileio import get
from mmengine.runner import Runner

from mmcarafe.utils.files import check_kept, picture_names


@HOOKS.register_module()
class DistinctVisualizationHook(DetVisualizationHook):
    """mmdet's DetVisualizationHook, with a name of its own for the picture of each image of a test.

    mmdet's names pictures as the images, and of images of one name in several folders the last one stays.
    Here a picture's name begins with the folders below the one that all images have in common:
    ``cam0/0001.png`` becomes ``cam0_0001.png``. The arguments are mmdet's: a relative ``test_out_dir`` is
    below the run's own folder in its work directory.

    Raises:
        InputError: before a test, where that folder holds one of the images, which could be overwritten.
    """

    _names: dict[str, str]

    def before_test_epoch(self, runner: Runner) -> None:
        """Name the pictures of all images."""
        dataset = runner.test_loop.dataloader.dataset
        if self.draw and self.test_out_dir is not None:
            paths = [dataset.get_data_info(n)["img_path"] for n in range(len(dataset))]
            check_kept("--show-dir", self._folder(runner), map(Path, paths))
            self._names = picture_names(paths)

    def _folder(self, runner: Runner) -> Path:
        return Path(runner.work_dir, runner.timestamp, self.test_out_dir)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[DetDataSample]
    ) -> None:
        """Draw as mmdet does, each picture under its own name."""
        if not self.draw or self.test_out_dir is None:
            super().after_test_iter(runner, batch_idx, data_batch, outputs)
            return
        folder = self._folder(runner)
        for sample in outputs:
            self._test_index += 1
            content, name = get(sample.img_path, self.backend_args), self._names[sample.img_path]
            self._visualizer.add_datasample(
                name if self.show else "test_img",
                mmcv.imfrombytes(content, channel_order="rgb"),
                data_sample=sample,
                show=self.show,
                wait_time=self.wait_time,
                pred_score_thr=self.score_thr,
                out_file=str(folder / name),
                step=self._test_index,
            )
