# SPDX-License-Identifier: Apache-2.0
"""Mask R-CNN trains: with CARAFE in every precision, on CPU and GPU; with every other type for an epoch."""

from pathlib import Path

import pytest
import torch
from commands import SMALL, TWIN, call
from mmcv.ops import get_compiling_cuda_version
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from samples import every_device

from mmcarafe.engine import AmpOptimWrapper
from mmcarafe.layers import CARAFE
from mmcarafe.models import FPN, FCNMaskHead

CONFIG = Path(__file__).parents[2] / "configs/carafe/mask-rcnn_r18_fpn-carafe_shapes.py"


def optim_wrapper(model: torch.nn.Module, device: str, dtype: str):
    optimizer = torch.optim.SGD(model.parameters(), 0.005)
    if dtype == "float32":
        return OptimWrapper(optimizer)
    if (device, dtype) == ("cpu", "float16"):
        pytest.skip("mixed precision on a CPU is bfloat16")
    # with mmengine's first scale, 65536, losses may overflow, and their steps are left out
    return AmpOptimWrapper(dtype=dtype, optimizer=optimizer, loss_scale=512.0)


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


OTHERS = ("SAPA", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("DySample", "DLU", "FADE")))


@pytest.mark.parametrize("kind", OTHERS)
def test_every_type_trains_an_epoch_and_evaluates(kind, toy, tmp_path):
    options = [*SMALL, "train_cfg.max_epochs=1", "train_cfg.val_interval=1"]
    options.append(f"model.neck.upsample_cfg.type={kind}")
    done = call("train.py", TWIN, "--work-dir", tmp_path, "--cfg-options", *options, cwd=toy)
    assert "coco/segm_mAP" in done.stdout
    weights = torch.load(tmp_path / "epoch_1.pth", weights_only=True)["state_dict"]
    assert any(key.startswith("neck.upsample_modules.0.") for key in weights)
