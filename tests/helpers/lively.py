# SPDX-License-Identifier: Apache-2.0
"""Random detectors that find objects: what an untrained one says of every place is nearly the same."""

from collections.abc import Callable
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from mmcarafe.deploy.verifying import blots

CONFIGS = Path(__file__).parents[2] / "configs/carafe"
# instead of a ResNet-50: an eighth of the channels, a third of the layers
SMALL_RESNET = {
    "model.backbone.depth": 18,
    "model.backbone.base_channels": 8,
    "model.neck.in_channels": [8, 16, 32, 64],
}


NARROW = {256: 32, 512: 64, 1024: 64}
"""Channels of a narrow neck and head, by those of the config."""


def config(start: str) -> Path:
    """The COCO config with CARAFE of a model, backbone and neck."""
    return min(
        (p for p in CONFIGS.glob("*_coco.py") if p.name.startswith((f"{start}-carafe", f"{start}_carafe"))),
        key=lambda path: len(path.name),
    )


def pictures(batch: int, height: int, width: int) -> Tensor:
    """Draw images in colour, Tensor[N, 3, H, W]."""
    return blots(batch, 3, height, width)


def _narrow(settings: dict) -> None:
    for key, value in settings.items():
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                _narrow(inner)
        if key.endswith("channels") and isinstance(value, int):
            settings[key] = NARROW.get(value, value)


@torch.no_grad()
def lively(start: str, **test_cfg) -> nn.Module:
    """Build the detector of a config, small and narrow; every layer of a head has outputs of variance 1.

    Whatever the image: a batch norm has statistics of a training, a group norm makes its own.
    """
    cfg = Config.fromfile(config(start))
    cfg.model.backbone.init_cfg = None
    if cfg.model.backbone.type == "ResNet":
        cfg.merge_from_dict(SMALL_RESNET)
    for name in ("neck", "rpn_head", "roi_head", "bbox_head", "mask_head"):
        _narrow(cfg.model.get(name) or {})
    if "rpn" in cfg.model.test_cfg:
        cfg.model.test_cfg.rpn.max_per_img //= 4
    if start.startswith("cascade"):  # the mean of three stages' logits makes no class stand out so far
        test_cfg = dict(score_thr=0.02) | test_cfg
    (cfg.model.test_cfg.get("rcnn") or cfg.model.test_cfg).update(test_cfg)
    torch.manual_seed(0)
    return enlivened(MODELS.build(cfg.model).eval())


@torch.no_grad()
def enlivened(detector: nn.Module) -> nn.Module:
    """Give every layer of a detector's heads outputs of variance 1."""
    for name, module in list(detector.named_modules()):
        for key, child in list(module.named_children()):
            if isinstance(child, _NormBase):
                setattr(module, key, nn.GroupNorm(1, child.num_features))
        if "head" in name and isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            once(module, _rescale)
    mmdets_detections(detector, pictures(2, 192, 256))
    return detector


def once(module: nn.Module, hook: Callable) -> None:
    """Register a forward hook for the first call alone: later ones are of other levels."""

    def first(*args):
        handle.remove()
        return hook(*args)

    handle = module.register_forward_hook(first)


def _rescale(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    spread = output.std()
    layer.weight /= spread
    return output / spread


@torch.no_grad()
def mmdets_detections(detector: nn.Module, images: Tensor) -> list[InstanceData]:
    """What mmdet itself finds in images, Tensor[N, 3, H, W] from 0 to 255 (BGR)."""
    height, width = images.shape[2:]
    meta = dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0))
    data = dict(inputs=list(images), data_samples=[DetDataSample(metainfo=meta) for _ in images])
    data = detector.data_preprocessor(data)
    return [sample.pred_instances for sample in detector(**data, mode="predict")]
