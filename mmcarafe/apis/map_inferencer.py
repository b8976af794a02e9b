# SPDX-License-Identifier: Apache-2.0
"""The segmentor of the demo, with the classes that it was trained for."""

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmseg.apis import MMSegInferencer
from mmseg.structures import SegDataSample
from torch import nn

from mmcarafe.apis.class_names import choose_classes, few
from mmcarafe.apis.config import BUILDERS, absence_named, read_config
from mmcarafe.apis.libraries import build_model
from mmcarafe.checkpoint.state_dict import check_state, read_state_dict
from mmcarafe.errors import InputError
from mmcarafe.utils.files import check_pipeline
from mmcarafe.visualization import image_pipeline


class Inferencer(MMSegInferencer):
    """mmsegmentation's inferencer, with weights that fit and the classes they were trained for.

    mmsegmentation takes Cityscapes' names where a checkpoint holds none. Images are given as the first step
    of the config's test pipeline, ``load``, or :meth:`take` makes them.

    Raises:
        InputError: config and checkpoint do not belong together, or give no names for the model's labels.
    """

    def __init__(self, config: str, checkpoint: str, device: str):
        cfg = read_config(config)
        check_pipeline(cfg, config)
        # it draws, and what it drew is written by the demo
        cfg.visualizer = dict(cfg.get("visualizer") or dict(type="SegLocalVisualizer"), vis_backends=None)
        self.files = config, checkpoint
        with absence_named(f"config {config} cannot be used", BUILDERS):
            super().__init__(cfg, checkpoint, device=device)
        self.show_progress = False
        self.visualizer.set_dataset_meta(**self.model.dataset_meta)

    def _init_model(self, cfg: Config, weights: str, device: str) -> nn.Module:
        checkpoint, state = read_state_dict(weights)
        model = build_model(cfg)
        check_state(model, weights, state)
        classes = choose_classes(cfg, checkpoint, *self.files)
        count = max(model.num_classes, model.out_channels)
        if count != len(classes):
            raise InputError(
                f"the model has {count} classes, but config {self.files[0]} and checkpoint {weights} "
                f"have names for {len(classes)} ({few(classes)}); set metainfo=dict(classes=(...)) of the "
                "config's test_dataloader.dataset to the classes of the training, in their order"
            )
        model.dataset_meta = dict(classes=classes, palette=palette_of(cfg, checkpoint, len(classes)))
        return model.to(device)

    def _init_pipeline(self, cfg: Config) -> Compose:
        self.load, change = image_pipeline(cfg)
        return change

    def predict(self, images: list[dict]) -> list[SegDataSample]:
        """Return the segmentation of each loaded image; those of one size are predicted together."""
        one_size = len({image["img"].shape for image in images}) == 1
        found = self(images, batch_size=len(images) if one_size else 1, return_datasamples=True)
        return found if isinstance(found, list) else [found]

    def take(self, frame: np.ndarray) -> dict:
        """Return BGR pixels as the config's test pipeline would have loaded them from a file."""
        step = self.load.transforms[0]
        if getattr(step, "color_type", "color").startswith("grayscale"):
            frame = mmcv.bgr2gray(frame)
        size = frame.shape[:2]
        frame = frame.astype(np.float32) if getattr(step, "to_float32", False) else frame
        return dict(img=frame, img_path=None, img_shape=size, ori_shape=size)


def palette_of(cfg: Config, checkpoint: dict, count: int) -> list[list[int]]:
    """Return a colour for each class: the config's, else the checkpoint's, else some that differ."""
    meta = checkpoint.get("meta")
    known = (meta.get("dataset_meta") if isinstance(meta, dict) else None) or {}
    own = (cfg.test_dataloader.dataset.get("metainfo") or {}).get("palette")
    for palette in (own, known.get("palette") if isinstance(known, dict) else None):
        if isinstance(palette, list | tuple) and len(palette) == count:
            return [list(colour) for colour in palette]
    return np.random.default_rng(0).integers(0, 256, (count, 3)).tolist()
