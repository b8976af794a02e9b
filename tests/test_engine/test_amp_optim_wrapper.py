# SPDX-License-Identifier: Apache-2.0
"""Detectors learn in bfloat16 on a CPU: what mmcv's operators and the boxes need in float32 is float32."""

import copy

import pytest
import torch
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.models import FocalLoss, SingleRoIExtractor, VFNetHead
from mmdet.registry import MODELS, OPTIM_WRAPPERS
from mmdet.testing import demo_mm_inputs
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MessageHub
from shipped import CONFIGS, few_rois
from test_configs import SEMANTIC

from mmcarafe.engine import amp_optim_wrapper as amp
from mmcarafe.engine.amp_optim_wrapper import FLOAT32_METHODS, AmpOptimWrapper

pytestmark = pytest.mark.skipif(get_device() != "cpu", reason="with a GPU mixed precision is mmengine's")
SLOW = pytest.mark.slow
# RoIAlign and an RPN; deformable sampling; deformable convolutions
USUAL = ("mask-rcnn_r18_fpn-carafe_shapes", "tood_r50_fpn-carafe_1x_coco", "vfnet_r50_fpn-carafe_1x_coco")
# one of each detector, the usual one where there are several: necks have no part in float32 of their own
DETECTORS = {path.stem.split("_")[0]: path for path in sorted(CONFIGS, key=lambda path: path.stem in USUAL)}


def wrapper(model: torch.nn.Module, **kwargs) -> AmpOptimWrapper:
    return AmpOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), 1e-3), **kwargs)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=() if path.stem in USUAL else SLOW, id=path.stem)
        for path in DETECTORS.values()
    ],
)
def test_every_detector_learns_a_step_near_float32(path):
    register_all_modules()
    cfg = Config.fromfile(path)
    cfg.model.backbone.init_cfg = None
    cfg.model.get("data_preprocessor", {}).pop("batch_augments", None)
    few_rois(cfg)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    MessageHub.get_current_instance().update_info("epoch", 0)  # as the runner does; TOOD reads it
    masks = getattr(model, "with_mask", False) or "mask2former" in path.stem or "ins" in path.stem
    classes = 6 if "shapes" in path.stem else 80
    batch = demo_mm_inputs(
        2, [[3, 128, 160]] * 2, num_items=[2, 3], num_classes=classes, with_mask=masks,
        **SEMANTIC.get(path.stem, {}),
    )  # fmt: skip
    data = model.data_preprocessor(batch, training=True)
    torch.manual_seed(1)
    expected, _ = model.parse_losses(model(**data, mode="loss"))
    torch.manual_seed(1)
    optimizer = wrapper(model)
    logs = model.train_step(batch, optimizer)
    assert logs["loss"] != expected
    assert logs["loss"].item() == pytest.approx(expected.item(), rel=0.1)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())


def test_it_takes_the_place_of_mmengines():
    assert OPTIM_WRAPPERS.get("AmpOptimWrapper") is AmpOptimWrapper


class Extractor(SingleRoIExtractor):
    """A user's, which notes the dtype of what it is given."""

    def __init__(self):
        torch.nn.Module.__init__(self)
        self.seen, self.scale = [], torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        self.seen.append(x.dtype)
        return x * self.scale


def test_a_models_own_parts_compute_in_float32_and_mmdets_classes_are_as_they_were():
    before = [getattr(owner, name) for owner, name in FLOAT32_METHODS]
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), Extractor())
    optimizer = wrapper(model)
    for _ in range(2):
        with optimizer.optim_context(model):
            assert model(torch.ones(1, 2)).dtype == torch.float32
    assert model[1].seen == [torch.float32] * 2
    assert [getattr(owner, name) for owner, name in FLOAT32_METHODS] == before


def test_a_copy_of_a_prepared_model_computes_with_its_own_weights():
    model = torch.nn.Sequential(Extractor())
    with wrapper(model).optim_context(model):
        twin = copy.deepcopy(model)
    torch.nn.init.constant_(twin[0].scale, 3)
    assert twin(torch.ones(1)).item() == 3 and model(torch.ones(1)).item() == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_alone_is_cast(dtype):
    tensors = (torch.ones(1, dtype=dtype), [torch.ones(1, dtype=torch.int64)], "text")
    first, (second,), text = amp._to_float32(tensors)
    assert first.dtype == torch.float32 and second.dtype == torch.int64 and text == "text"


def test_what_takes_mmcvs_kernels_on_a_gpu_alone_computes_in_float32():
    model = torch.nn.ModuleDict(dict(loss=FocalLoss(), attention=MultiScaleDeformableAttention(32, 4, 1)))
    x, points = torch.rand(4, 1, 32, dtype=torch.bfloat16), torch.rand(1, 4, 1, 2)
    levels = dict(spatial_shapes=torch.tensor([[2, 2]]), level_start_index=torch.tensor([0]))
    with wrapper(model).optim_context(model):
        out = model["attention"](query=x, value=x, reference_points=points, **levels)
        loss = model["loss"](x[:, 0, :5], torch.tensor([0, 1, 5, 4]), weight=torch.ones(4), avg_factor=3.0)
    assert out.dtype == loss.dtype == torch.float32


class Head(VFNetHead):
    def __init__(self):
        torch.nn.Module.__init__(self)

    def loss_by_feat(self, scores, boxes):
        scores[0][0, 0] = boxes[0][0, 0]  # as mmdet's: no autocast turns one into the dtype of the other
        return scores[0]


def test_heads_that_mix_dtypes_learn_in_float16_too():
    model = torch.nn.Sequential(Head())
    given = [torch.zeros(2, 2, dtype=torch.float16)], [torch.ones(2, 2)]
    amp.keep_in_float32(model, amp.MIXED_METHODS)
    assert model[0].loss_by_feat(*given).dtype == torch.float32


def test_state_has_no_loss_scaler():
    model = torch.nn.Linear(2, 2)
    state = wrapper(model, loss_scale=512.0).state_dict()
    assert "loss_scaler" not in state and "param_groups" in state
    other = wrapper(model)
    other.load_state_dict({**state, "loss_scaler": {"scale": 65536.0}})  # of a run on a GPU
    assert other.get_lr() == wrapper(model).get_lr()


def test_another_dtype_is_refused():
    with pytest.raises(ValueError, match=r"expected dtype None or bfloat16.*got float16"):
        wrapper(torch.nn.Linear(2, 2), dtype="float16")
