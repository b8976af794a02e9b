# SPDX-License-Identifier: Apache-2.0
"""A Mask R-CNN with CARAFE in neck and mask head takes training steps in every precision, on CPU and GPU."""

from pathlib import Path

import pytest
import torch
from mmcv.ops import get_compiling_cuda_version
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from samples import every_device

from mmcarafe.layers import CARAFE
from mmcarafe.models import FPN, FCNMaskHead

CONFIG = Path(__file__).parents[2] / "configs/carafe/mask-rcnn_r18_fpn-carafe_shapes.py"


def optim_wrapper(model: torch.nn.Module, device: str, dtype: str):
    optimizer = torch.optim.SGD(model.parameters(), 0.005)
    if dtype == "float32":
        return OptimWrapper(optimizer)
    if device == "cpu":
        pytest.skip("mmengine's AmpOptimWrapper needs a GPU")
    return AmpOptimWrapper(dtype=dtype, optimizer=optimizer)


def needs_cuda_ops(device: str) -> None:
    if device == "cuda" and get_compiling_cuda_version() == "not available":
        pytest.skip("this mmcv was built without CUDA, so RoIAlign and NMS have no GPU kernels")


@every_device
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_three_steps(device, dtype):
    needs_cuda_ops(device)
    cfg = Config.fromfile(CONFIG).model
    cfg.backbone.init_cfg = None
    model = MODELS.build(cfg)
    model.init_weights()
    model.to(device).train()
    layers = {name: m for name, m in model.named_modules() if isinstance(m, CARAFE)}
    assert isinstance(model.neck, FPN) and isinstance(model.roi_head.mask_head, FCNMaskHead)
    assert len(layers) == 4
    before = {name: layer.content_encoder.weight.detach().clone() for name, layer in layers.items()}
    batch = demo_mm_inputs(
        2, [[3, 128, 160]] * 2, num_items=[3, 4], num_classes=6, with_mask=True, device=device
    )
    wrapper = optim_wrapper(model, device, dtype)
    for _ in range(3):
        losses = model.train_step(batch, wrapper)
        assert all(torch.isfinite(loss).all() for loss in losses.values())
    for name, layer in layers.items():
        weight = layer.content_encoder.weight
        assert weight.isfinite().all() and not weight.equal(before[name]), name
