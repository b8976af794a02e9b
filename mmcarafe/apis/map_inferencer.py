# SPDX-License-Identifier: Apache-2.0
"""The segmentor of the demo, with the classes that it was trained for."""

import numpy as np
from mmengine.config import Config
from mmseg.apis import MMSegInferencer
from mmseg.structures import SegDataSample
from torch import nn

from mmcarafe.apis.class_names import choose_classes
from mmcarafe.apis.inferencing import Inferencing, check_names
from mmcarafe.apis.libraries import build_model
from mmcarafe.checkpoint.state_dict import check_state, read_state_dict


class Inferencer(Inferencing, MMSegInferencer):
    """mmsegmentation's inferencer, with weights that fit and the classes they were trained for.

    mmsegmentation takes Cityscapes' names where a checkpoint holds none.
    """

    visualizer_type = "SegLocalVisualizer"

    def __init__(self, config: str, checkpoint: str, device: str):
        super().__init__(config, checkpoint, device)
        self.show_progress = False
        self.visualizer.set_dataset_meta(**self.model.dataset_meta)

    def _init_model(self, cfg: Config, weights: str, device: str) -> nn.Module:
        checkpoint, state = read_state_dict(weights)
        model = build_model(cfg)
        check_state(model, weights, state)
        classes = choose_classes(cfg, checkpoint, *self.files)
        check_names(max(model.num_classes, model.out_channels), classes, *self.files)
        model.dataset_meta = dict(classes=classes, palette=palette_of(cfg, checkpoint, len(classes)))
        return model.to(device)

    def predict(self, images: list[dict]) -> list[SegDataSample]:
        """Return the segmentation of each loaded image; those of one size are predicted together."""
        one_size = len({image["img"].shape for image in images}) == 1
        found = self(images, batch_size=len(images) if one_size else 1, return_datasamples=True)
        return found if isinstance(found, list) else [found]


def palette_of(cfg: Config, checkpoint: dict, count: int) -> list[list[int]]:
    """Return a colour for each class: the config's, else the checkpoint's, else some that differ."""
    meta = checkpoint.get("meta")
    known = (meta.get("dataset_meta") if isinstance(meta, dict) else None) or {}
    own = (cfg.test_dataloader.dataset.get("metainfo") or {}).get("palette")
    for palette in (own, known.get("palette") if isinstance(known, dict) else None):
        if isinstance(palette, list | tuple) and len(palette) == count:
            return [list(colour) for colour in palette]
    return np.random.default_rng(0).integers(0, 256, (count, 3)).tolist()
