# SPDX-License-Identifier: Apache-2.0
"""What the operator says to wrong arguments, and what importing it leaves alone."""

import subprocess
import sys

import pytest
import torch

from mmcarafe import carafe
from mmcarafe.ops import carafe_downsample

RIGHT = dict(
    features=torch.rand(2, 4, 3, 5),
    masks=torch.rand(2, 18, 6, 10),
    kernel_size=3,
    group_size=2,
    scale_factor=2,
)
WRONG_TYPES = {
    "features_array": (dict(features=[1.0]), r"features: expected a Tensor, got list"),
    "masks_none": (dict(masks=None), r"masks: expected a Tensor, got NoneType"),
    "features_integer": (
        dict(features=torch.ones(2, 4, 3, 5, dtype=torch.int64)),
        r"features: expected a floating-point dtype, got torch\.int64",
    ),
    "masks_integer": (
        dict(masks=torch.ones(2, 18, 6, 10, dtype=torch.uint8)),
        r"masks: expected a floating-point dtype, got torch\.uint8",
    ),
    "features_complex": (
        dict(features=torch.ones(2, 4, 3, 5, dtype=torch.complex64)),
        r"features: expected a floating-point dtype, got torch\.complex64",
    ),
    "mixed_dtypes": (
        dict(masks=torch.rand(2, 18, 6, 10).half()),
        r"masks: expected the features' dtype torch\.float32, got torch\.float16",
    ),
    "kernel_float": (dict(kernel_size=3.0), r"kernel_size: expected an int, got 3\.0"),
    "kernel_pair": (dict(kernel_size=(3, 3)), r"kernel_size: expected an int, got \(3, 3\)"),
    "group_bool": (dict(group_size=True), r"group_size: expected an int, got True"),
    "scale_text": (dict(scale_factor="2"), r"scale_factor: expected an int, got '2'"),
}
WRONG_VALUES = {
    "features_3d": (
        dict(features=torch.rand(4, 3, 5)),
        r"features: expected 4 dimensions \[N, C, H, W\], got \(4, 3, 5\)",
    ),
    "masks_5d": (
        dict(masks=torch.rand(2, 2, 9, 6, 10)),
        r"masks: expected 4 dimensions \[N, C, H, W\], got \(2, 2, 9, 6, 10\)",
    ),
    "kernel_even": (dict(kernel_size=4), r"kernel_size: expected an odd number, got 4"),
    "kernel_0": (dict(kernel_size=0), r"kernel_size: expected 1 or more, got 0"),
    "kernel_negative": (dict(kernel_size=-3), r"kernel_size: expected 1 or more, got -3"),
    "group_0": (dict(group_size=0), r"group_size: expected 1 or more, got 0"),
    "scale_0": (dict(scale_factor=0), r"scale_factor: expected 1 or more, got 0"),
    "group_no_divisor": (dict(group_size=3), r"group_size: expected a divisor of the 4 channels, got 3"),
    "masks_channels": (
        dict(masks=torch.rand(2, 9, 6, 10)),
        r"masks: expected shape \(2, 18, 6, 10\) for features \(2, 4, 3, 5\) with kernel_size=3, "
        r"group_size=2, scale_factor=2, got \(2, 9, 6, 10\)",
    ),
    "masks_batch": (dict(masks=torch.rand(1, 18, 6, 10)), r"\(2, 18, 6, 10\) .* got \(1, 18, 6, 10\)"),
    "masks_height": (dict(masks=torch.rand(2, 18, 5, 10)), r"\(2, 18, 6, 10\) .* got \(2, 18, 5, 10\)"),
    "masks_width": (dict(masks=torch.rand(2, 18, 6, 5)), r"\(2, 18, 6, 10\) .* got \(2, 18, 6, 5\)"),
    "device": (
        dict(masks=torch.rand(2, 18, 6, 10, device="meta")),
        r"masks: expected the features' device cpu, got meta",
    ),
}


def test_right_arguments_pass_by_name_and_by_position():
    assert carafe(**RIGHT).equal(carafe(*RIGHT.values()))


@pytest.mark.parametrize(("wrong", "message"), WRONG_TYPES.values(), ids=WRONG_TYPES)
def test_wrong_type(wrong, message):
    with pytest.raises(TypeError, match=message):
        carafe(**{**RIGHT, **wrong})


@pytest.mark.parametrize(("wrong", "message"), WRONG_VALUES.values(), ids=WRONG_VALUES)
def test_wrong_value(wrong, message):
    with pytest.raises(ValueError, match=message):
        carafe(**{**RIGHT, **wrong})


def test_a_wrong_stride_and_masks_of_another_size_than_rounded_up():
    features, masks = torch.rand(2, 4, 5, 6), torch.rand(2, 9, 3, 3)
    assert carafe_downsample(features, masks, 3, 1, 2).shape == (2, 4, 3, 3)
    with pytest.raises(ValueError, match="stride: expected 1 or more, got 0"):
        carafe_downsample(features, masks, 3, 1, 0)
    expected = r"\(2, 9, 3, 3\) for features \(2, 4, 5, 6\) with kernel_size=3, group_size=1, stride=2, got"
    with pytest.raises(ValueError, match=f"masks: expected shape {expected}"):
        carafe_downsample(features, torch.rand(2, 9, 2, 3), 3, 1, 2)
    with pytest.raises(ValueError, match=r"zeros up to the stride: expected at most 2\*\*63 - 1 bytes"):
        carafe_downsample(features, torch.rand(2, 9, 1, 1), 3, 1, 2**40)


def test_meta_tensors_give_the_shape_without_computing():
    meta = {name: t.to("meta") if isinstance(t, torch.Tensor) else t for name, t in RIGHT.items()}
    out = carafe(**meta)
    assert out.is_meta
    assert out.shape == (2, 4, 6, 10)


def test_import_leaves_openmmlab_alone():
    code = "import sys, mmcarafe, mmcarafe.ops; print({'mmengine', 'mmcv', 'mmdet'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
