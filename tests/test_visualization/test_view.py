# SPDX-License-Identifier: Apache-2.0
"""Where the maps lie in the image, which points are chosen, and that looking leaves no trace."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from torch import nn

from mmcarafe.apis.config import read_config
from mmcarafe.apis.libraries import build_model
from mmcarafe.checkpoint.random_state import random_state, set_random_state
from mmcarafe.layers.upsampler import Reassembler
from mmcarafe.visualization import choose_points, image_points, look, select
from mmcarafe.visualization.view import numbered, undisturbed

NAN = float("nan")
CONFIG = "configs/carafe/mask-rcnn_r18_fpn-carafe_shapes.py"


@pytest.fixture(scope="module")
def model(request):
    return detector(request.config.rootpath)


def detector(root, **options):
    """The embedded detector with random weights; it finds nothing well, so any score counts."""
    torch.manual_seed(0)
    options |= {"model.backbone.base_channels": 8, "model.neck.in_channels": [8, 16, 32, 64]}
    options["model.test_cfg"] = dict(rcnn=dict(score_thr=0.0))
    model = build_model(read_config(str(root / CONFIG), options))
    for layer in model.modules():
        if isinstance(layer, Reassembler):
            nn.init.normal_(layer.content_encoder.weight)
    return model


def sample(height: int, width: int, scale: float = 1.0) -> DetDataSample:
    """What a pipeline says that enlarged a picture by ``scale``."""
    original = (round(height / scale), round(width / scale))
    meta = dict(img_shape=(height, width), ori_shape=original, scale_factor=(scale, scale))
    return DetDataSample(metainfo=meta)


def views_of(model, height=96, width=128, scale=1.0):
    inputs = torch.randint(256, (3, height, width), dtype=torch.uint8)
    return {view.name: view for view in look(model, inputs, sample(height, width, scale))}


def test_a_view_of_each_component(model):
    views = views_of(model)
    assert views.keys() == {"neck", "roi_head.mask_head"}
    assert [c.name for c in views["neck"].calls] == [f"neck.upsample_modules.{i}" for i in range(3)]
    assert views["roi_head.mask_head"].is_roi
    assert not views["neck"].is_roi


def test_each_downsampler_has_a_view_of_its_own(request):
    """Named by the convolution whose stride it took over, or by the level that it makes."""
    options = {"model.neck.type": "PAFPN", "model.neck.downsample_cfg.type": "CARAFE"}
    views = views_of(detector(request.config.rootpath, **options))
    convs = [f"neck.downsample_convs.{i}.conv" for i in range(3)]
    assert list(views) == ["neck", *convs, "neck.extra_levels", "roi_head.mask_head"]
    steps = [4, 8, 16, 32, 64]
    for name, before, after in zip([*convs, "neck.extra_levels"], steps[:-1], steps[1:], strict=True):
        (call,) = views[name].calls
        assert call.downsamples and call.name.startswith(name)
        assert views[name].step(0) == (before, before)
        assert views[name].step(-1) == (after, after)
    assert select(list(views.values()), "neck.downsample_convs.0.conv.downsample")


@pytest.mark.parametrize("size", [(96, 128), (90, 100)], ids=["whole", "padded"])
def test_strides_count_from_the_padded_image(model, size):
    neck = views_of(model, *size)["neck"]
    assert [neck.step(level) for level in (-1, 0, 1, 2)] == [(s, s) for s in (4, 8, 16, 32)]
    assert neck.pixel(0, 0) == (0, 0)
    assert neck.pixel(41.9, 8.1) == (2, 10)
    assert neck.cell(1, 2, level=1) == (32, 16, 16, 16)
    assert neck.inside == (0, 0, size[1], size[0])
    assert neck.image.shape == (*size, 3)


def test_the_image_is_what_the_network_sees_in_rgb(model):
    inputs = torch.randint(256, (3, 96, 128), dtype=torch.uint8)
    for view in look(model, inputs, sample(96, 128)):
        assert (view.image == inputs.flip(0).permute(1, 2, 0).numpy()).all()


def test_odd_maps_that_are_cropped_keep_their_strides(model, monkeypatch):
    monkeypatch.setattr(model.data_preprocessor, "pad_size_divisor", 1)
    neck = views_of(model, 100, 104)["neck"]
    assert neck.calls[1].features.shape[2:] == (7, 7)
    assert neck.calls[0].features.shape[2:] == (13, 13)
    assert [neck.step(level) for level in (-1, 0, 1, 2)] == [(s, s) for s in (4, 8, 16, 32)]
    coarse = neck.at(1)
    assert coarse.step(-1) == neck.step(0)
    assert coarse.pixel(50, 60) == neck.pixel(50, 60, 0)


def test_a_change_of_the_image_shows_where_the_view_puts_it(model):
    """The finest map differs most in the cell of the changed pixels."""
    inputs = torch.full((3, 128, 128), 128, dtype=torch.uint8)
    before = look(model, inputs, sample(128, 128))[0]
    inputs[:, 80:88, 24:32] = 255
    after = look(model, inputs, sample(128, 128))[0]
    change = (after.calls[0].features - before.calls[0].features).abs().sum((0, 1))
    row, column = np.unravel_index(int(change.argmax()), change.shape)
    expected = after.pixel(28, 84, level=0)
    assert abs(row - expected[0]) <= 1
    assert abs(column - expected[1]) <= 1


def test_a_rois_maps_lie_in_its_box(model):
    view = views_of(model)["roi_head.mask_head"]
    left, top, right, bottom = view.box
    assert 0 <= left < right <= 128
    assert 0 <= top < bottom <= 96
    assert view.step(-1) == pytest.approx(((right - left) / 28, (bottom - top) / 28))
    assert view.pixel((left + right) / 2 + 0.01, bottom - 0.01) == (27, 14)


def draw() -> tuple[float, float, float]:
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_looking_disturbs_nothing(model):
    model.train()
    model.roi_head.eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = torch.randint(256, (3, 96, 128), dtype=torch.uint8)
    numbers = random_state()
    expected = draw()
    set_random_state(numbers)
    look(model, inputs, sample(96, 128))
    with undisturbed(model):
        assert draw() == expected
    assert draw() == expected
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    model.eval()


def test_chosen_points_are_apart_and_the_last_is_the_most_uniform(model):
    neck = views_of(model)["neck"]
    points = choose_points(neck, count=3)
    assert [point.what for point in points] == ["least uniform", "least uniform", "most uniform"]
    for i, p in enumerate(points):
        assert all(np.hypot(p.x - q.x, p.y - q.y) >= 0.2 * 128 for q in points[:i])
        assert 0 < p.x < 128
        assert 0 < p.y < 96
    entropy = [
        np.mean([neck.entropy(level)[neck.pixel(p.x, p.y, level - 1)] for level in range(3)]) for p in points
    ]
    mean = neck.mean_entropy()
    assert entropy == pytest.approx([mean[neck.pixel(p.x, p.y)] for p in points])
    assert entropy[0] <= entropy[1] < entropy[2]
    assert len(choose_points(neck, count=1)) == 1
    assert len(choose_points(neck, count=1000)) < 40


def test_points_of_the_original_image_are_scaled(model):
    views = views_of(model, 96, 128, scale=2.0)
    (point,) = image_points(views["neck"], [(10, 5)])
    assert point[:2] == (21, 11)
    assert image_points(views["neck"], [(63, 47)])
    for outside in ((64, 5), (10, 48), (-1, 0)):
        with pytest.raises(ValueError, match="is outside the image, which is 64 x 48 pixels"):
            image_points(views["neck"], [(10, 5), outside])
    roi = views["roi_head.mask_head"]
    left, top, right, bottom = roi.box
    middle = (left + right) / 4 - 0.5, (top + bottom) / 4 - 0.5
    (point,) = image_points(roi, [middle])
    assert point[:2] == pytest.approx(((left + right) / 2, (top + bottom) / 2))
    moved = replace(roi, box=(left, top, left + 1, top + 1))
    assert image_points(moved, [middle]) == []


def test_a_part_or_a_module_can_be_selected(model):
    views = list(views_of(model).values())
    assert select(views, None) == views
    assert [view.name for view in select(views, "roi_head")] == ["roi_head.mask_head"]
    (coarse,) = select(views, "neck.upsample_modules.1")
    assert [call.name for call in coarse.calls] == ["neck.upsample_modules.1", "neck.upsample_modules.2"]
    assert select(views, "nec") == []


def test_values_that_are_not_finite_are_told(model):
    view = views_of(model)["neck"]
    assert view.flaw == ""
    view.calls[1].kernels[0, 0, 0, 0] = float("nan")
    assert view.flaw == "features or kernels are not finite"


@pytest.mark.parametrize("box", [(128, 10, 128, 30), (-40, 10, -10, 50), (140, 10, 180, 50), (0, NAN, 9, 9)])
def test_a_roi_without_a_part_of_the_image_is_not_drawn(model, box):
    view = views_of(model)["roi_head.mask_head"]
    assert view.flaw == ""
    assert "has no part of the image in it" in replace(view, box=box).flaw


def test_modules_that_run_twice_are_told_apart(model):
    neck, head = views_of(model).values()
    names = [view.name for view in numbered([neck, head, neck])]
    assert names == ["neck, pass 1", "roi_head.mask_head", "neck, pass 2"]
    views = numbered([neck, head, neck])
    assert len(select(views, "neck")) == 2
    names = [view.name for view in select(views, "neck.upsample_modules.1")]
    assert names == ["neck.upsample_modules.1, pass 1", "neck.upsample_modules.1, pass 2"]
