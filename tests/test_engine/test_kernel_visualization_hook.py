# SPDX-License-Identifier: Apache-2.0
"""What the hook does with a model that has nothing to show; runs are in test_tools."""

import logging
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub

from mmcarafe.apis.config import read_config
from mmcarafe.apis.libraries import build_model
from mmcarafe.comparison.variants import CARAFELinear
from mmcarafe.engine import CARAFEVisualizationHook
from mmcarafe.errors import ImageError
from mmcarafe.layers import CARAFE


def test_a_training_that_diverged_goes_on(request, tmp_path, caplog, monkeypatch):
    cfg = read_config(str(request.config.rootpath / "configs/carafe/mask-rcnn_r18_fpn-carafe_shapes.py"))
    model, written = build_model(cfg), []
    cv2.imwrite(str(tmp_path / "image.png"), np.random.randint(0, 256, (64, 64, 3), np.uint8))
    visualizer = SimpleNamespace(add_image=lambda name, image, step: written.append(name))
    logger = logging.getLogger("diverged")
    hub = MessageHub.get_instance("diverged")
    runner = SimpleNamespace(model=model, cfg=cfg, logger=logger, visualizer=visualizer, message_hub=hub)
    hook = CARAFEVisualizationHook(image=str(tmp_path / "image.png"), module="neck")
    hook._write(runner, None, 1)
    assert len(written) == 4
    monkeypatch.setattr(CARAFE, "kernel_normalizer", CARAFELinear.kernel_normalizer)
    hook._write(runner, None, 2)
    assert len(written) == 4
    assert "neck: no pictures, kernels have negative weights" in caplog.text
    torch.nn.init.constant_(model.neck.upsample_modules[1].content_encoder.bias, float("nan"))
    hook._write(runner, None, 2)
    assert len(written) == 4
    assert "neck: no pictures, features or kernels are not finite" in caplog.text


def test_an_image_that_is_missing_is_named_before_the_training(request):
    cfg = read_config(str(request.config.rootpath / "configs/carafe/mask-rcnn_r18_fpn-carafe_shapes.py"))
    runner = SimpleNamespace(model=build_model(cfg), cfg=cfg)
    with pytest.raises(ImageError, match=r"nowhere.png"):
        CARAFEVisualizationHook(image="nowhere.png").before_train(runner)
