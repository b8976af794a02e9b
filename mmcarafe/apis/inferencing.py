# SPDX-License-Identifier: Apache-2.0
"""Reads configs, and takes images as they say, for the demo's detector and segmentor alike."""

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose

from mmcarafe.apis.class_names import few
from mmcarafe.apis.config import BUILDERS, absence_named, read_config
from mmcarafe.errors import InputError
from mmcarafe.utils.files import check_pipeline
from mmcarafe.visualization import image_pipeline


class Inferencing:
    """Comes before mmdet's or mmsegmentation's inferencer among the bases of one of this package's.

    Images are given as the first step of the config's test pipeline, ``load``, or :meth:`take` makes them.

    Raises:
        InputError: config and checkpoint do not belong together, or give no names for the model's labels.
    """

    visualizer_type: str
    """Name the visualizer to draw with where the config names none."""

    def __init__(self, config: str, checkpoint: str, device: str, **options: object) -> None:
        cfg = read_config(config)
        check_pipeline(cfg, config)
        # it draws, and what it drew is written by the demo
        cfg.visualizer = dict(cfg.get("visualizer") or dict(type=self.visualizer_type), vis_backends=None)
        self.files = config, checkpoint
        with absence_named(f"config {config} cannot be used", BUILDERS):
            super().__init__(cfg, checkpoint, device=device, **options)

    def _init_pipeline(self, cfg: Config) -> Compose:
        self.load, change = image_pipeline(cfg)
        return change

    def take(self, frame: np.ndarray) -> dict:
        """Return BGR pixels as the config's test pipeline would have loaded them from a file."""
        step = self.load.transforms[0]
        if getattr(step, "color_type", "color").startswith("grayscale"):
            frame = mmcv.bgr2gray(frame)
        size = frame.shape[:2]
        frame = frame.astype(np.float32) if getattr(step, "to_float32", False) else frame
        return dict(img=frame, img_path=None, img_shape=size, ori_shape=size)


def check_names(count: int, classes: tuple[str, ...], config: str, path: str) -> None:
    """Raise InputError unless each of a model's labels, ``count`` of them, has a name."""
    if count != len(classes):
        raise InputError(
            f"the model has {count} classes, but config {config} and checkpoint {path} give names for "
            f"{len(classes)} ({few(classes)}); set metainfo=dict(classes=(...)) of the config's "
            "test_dataloader.dataset to the classes of the training, in their order"
        )
