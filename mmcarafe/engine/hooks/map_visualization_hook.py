# SPDX-License-Identifier: Apache-2.0
"""Pictures of segmentations, one for each image of a test, whatever folders the images are in."""

from collections.abc import Sequence
from pathlib import Path

import mmcv
from mmengine.fileio import get
from mmengine.runner import Runner
from mmseg.engine.hooks import SegVisualizationHook
from mmseg.registry import HOOKS
from mmseg.structures import SegDataSample

from mmcarafe.utils.files import check_kept, picture_names


@HOOKS.register_module()
class MapVisualizationHook(SegVisualizationHook):
    """mmsegmentation's SegVisualizationHook, which writes the pictures of a test into a folder.

    Args:
        test_out_dir (str): the folder. Default: None, mmsegmentation's own place, which is the visualizer's.
        **kwargs: mmsegmentation's; of a test every image is drawn, whatever the ``interval``.

    Raises:
        InputError: before a test, where the folder holds one of the images, which could be overwritten.
    """

    def __init__(self, test_out_dir: str | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.test_out_dir = test_out_dir
        self._names: dict[str, str] = {}

    def before_test_epoch(self, runner: Runner) -> None:
        """Name the pictures of all images."""
        dataset = runner.test_loop.dataloader.dataset
        paths = [dataset.get_data_info(n)["img_path"] for n in range(len(dataset))]
        if self.draw and self.test_out_dir:
            check_kept("--show-dir", Path(self.test_out_dir), map(Path, paths))
        self._names = picture_names(paths, ".png")

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence[SegDataSample]
    ) -> None:
        """Draw each picture under its own name."""
        for sample in outputs if self.draw else ():
            name = self._names[sample.img_path]
            self._visualizer.add_datasample(
                name,
                mmcv.imfrombytes(get(sample.img_path, self.backend_args), channel_order="rgb"),
                data_sample=sample,
                show=self.show,
                wait_time=self.wait_time,
                out_file=self.test_out_dir and str(Path(self.test_out_dir, name)),
                step=runner.iter,
            )
