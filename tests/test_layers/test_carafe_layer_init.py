# SPDX-License-Identifier: Apache-2.0
"""The CARAFE module: initial weights, and what its constructor and forward refuse."""

import math

import pytest
import torch
from mmengine.model import BaseModule
from torch.nn.functional import interpolate

from mmcarafe.layers import CARAFE, build_upsample


class Parent(BaseModule):
    """A network whose initialisation covers all its convolutions, as mmdet's necks have it."""

    def __init__(self):
        super().__init__(init_cfg=dict(type="Xavier", layer="Conv2d", distribution="uniform", bias=7))
        self.conv = torch.nn.Conv2d(3, 16, 3)
        self.upsample = CARAFE(16)


def assert_initialised(layer):
    """Encoder normal with standard deviation 0.001, compressor Xavier uniform, both biases 0."""
    weight = layer.content_encoder.weight
    assert weight.std().item() == pytest.approx(0.001, rel=0.05)
    assert weight.abs().max() < 0.006
    assert layer.content_encoder.bias.eq(0).all()
    compressor = layer.channel_compressor
    bound = math.sqrt(6 / (compressor.in_channels + compressor.out_channels))
    assert 0.9 * bound < compressor.weight.abs().max() <= bound
    assert compressor.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    assert compressor.bias.eq(0).all()


def test_a_fresh_layer_is_initialised():
    assert_initialised(CARAFE(64))


def test_a_fresh_layer_averages_nearly_uniformly():
    layer, seen = CARAFE(16), []
    layer.kernel_normalizer = lambda logits: seen.append(CARAFE.kernel_normalizer(layer, logits)) or seen[0]
    layer(torch.randn(1, 16, 8, 8))
    assert seen[0].mul(25).sub(1).abs().max() < 0.2
    assert seen[0].std() > 0


def test_init_weights_can_be_called_repeatedly():
    layer = CARAFE(64)
    for _ in range(2):
        torch.nn.init.ones_(layer.content_encoder.weight)
        torch.nn.init.ones_(layer.channel_compressor.bias)
        layer.init_weights()
        assert_initialised(layer)


def test_an_enclosing_modules_initialisation_is_not_applied_to_the_encoder():
    parent = Parent()
    parent.init_weights()
    assert parent.conv.bias.eq(7).all()
    assert_initialised(parent.upsample)


def test_a_custom_init_cfg_is_respected():
    layer = CARAFE(16, init_cfg=dict(type="Constant", layer="Conv2d", val=0.25, bias=2))
    layer.init_weights()
    for convolution in (layer.channel_compressor, layer.content_encoder):
        assert convolution.weight.eq(0.25).all()
        assert convolution.bias.eq(2).all()


def test_the_default_init_cfg_is_not_shared():
    first = CARAFE(16)
    first.init_cfg.clear()
    second = CARAFE(16)
    second.init_weights()
    assert_initialised(second)


FORMS = {
    "default": {},
    "scale_3": dict(scale_factor=3),
    "groups": dict(up_group=4),
    "up_kernel_1": dict(up_kernel=1),
    "up_kernel_3": dict(up_kernel=3, scale_factor=1),
    "up_kernel_7": dict(up_kernel=7),
}


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
def test_a_start_as_nearest_is_nearest_to_five_hundredths_of_the_range(options):
    """All kernels of all groups, in the middle and at borders, where neighbours are 0."""
    layer = CARAFE(16, start="nearest", **options)
    x = torch.rand(2, 16, 9, 8)  # between 0 and 1
    error = (layer(x) - interpolate(x, scale_factor=layer.scale_factor)).abs()
    assert error.max() <= 0.051, "the encoder's weights move the kernels a little"
    if layer.up_kernel > 1:
        assert error.max() > 0.02 and CARAFE(16, **options)(x).sub(layer(x)).abs().max() > 0.3


def test_a_start_as_nearest_gives_the_centre_its_weight_and_the_others_equal_shares():
    layer = CARAFE(16, start="nearest", up_group=2)
    torch.nn.init.zeros_(layer.content_encoder.weight)
    logits = layer.content_encoder(torch.zeros(1, 64, 1, 1))
    kernels = layer.kernel_normalizer(logits).unflatten(1, (2, 25))
    expected = torch.full((25,), 0.05 / 24)
    expected[12] = 0.95
    torch.testing.assert_close(kernels, expected.view(1, 1, 25, 1, 1).expand(1, 2, 25, 2, 2))


def test_a_start_as_nearest_learns_with_all_its_taps():
    layer, target = CARAFE(8, start="nearest"), torch.randn(2, 8, 12, 12)
    layer(torch.randn(2, 8, 6, 6)).sub(target).square().mean().backward()
    by_tap = layer.content_encoder.weight.grad.view(25, -1).abs().amax(1)
    by_input = layer.channel_compressor.weight.grad.abs().amax(1)
    assert by_tap.min() > 1e-7 and by_input.min() > 1e-9
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.01)
    x = torch.randn(2, 8, 6, 6)
    target = interpolate(x, scale_factor=2, mode="bilinear")
    losses = []
    for _ in range(20):
        losses.append((layer(x) - target).square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2


def test_the_gradients_of_a_start_as_nearest_are_those_of_finite_differences():
    layer = CARAFE(2, start="nearest", up_kernel=3, compressed_channels=2).double()
    x = torch.randn(1, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *_: layer(x), (x, *layer.parameters()), fast_mode=True)


def test_a_start_outlasts_enclosing_initialisations_and_changes_no_other_weight():
    parent, twin = Parent(), CARAFE(16)
    parent.upsample = CARAFE(16, start="nearest")
    bias = parent.upsample.content_encoder.bias.clone()
    parent.init_weights()
    parent.upsample.init_weights()
    assert parent.upsample.content_encoder.bias.equal(bias)
    assert bias.view(25, 4)[12].gt(6).all() and bias.count_nonzero() == 4
    assert {k: v.shape for k, v in parent.upsample.state_dict().items()} == {
        k: v.shape for k, v in twin.state_dict().items()
    }
    parent.upsample.load_state_dict(twin.state_dict())
    x = torch.randn(1, 16, 4, 4)
    assert parent.upsample(x).equal(twin(x)), "a checkpoint's weights count, not the start"


def test_a_start_is_selected_by_a_config_and_shown():
    layer = build_upsample(dict(type="CARAFE", start="nearest"), 8, 2)
    assert "start='nearest'" in repr(layer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(start="bilinear"), "start: expected 'average' or 'nearest', got 'bilinear'"),
        (dict(start=None), "start: expected 'average' or 'nearest', got None"),
        (dict(start="nearest", norm_cfg=dict(type="BN")), "'nearest' is a bias that norm_cfg would change"),
        (dict(start="nearest", act_cfg=dict(type="ReLU")), "'nearest' is a bias that act_cfg would change"),
        (
            dict(start="nearest", init_cfg=dict(type="Constant", layer="Conv2d", val=0)),
            "'nearest' is a bias that init_cfg would change; leave one of them out",
        ),
    ],
    ids=str,
)
def test_a_start_that_cannot_be_had(options, message):
    with pytest.raises(ValueError, match=message):
        CARAFE(8, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(channels=0), ValueError, "channels: expected 1 or more, got 0"),
        (dict(channels=8.0), TypeError, r"channels: expected an int, got 8\.0"),
        (dict(scale_factor=0), ValueError, "scale_factor: expected 1 or more, got 0"),
        (dict(scale_factor=2.0), TypeError, r"scale_factor: expected an int, got 2\.0"),
        (dict(scale_factor=True), TypeError, "scale_factor: expected an int, got True"),
        (dict(up_kernel=4), ValueError, "up_kernel: expected an odd number, got 4"),
        (dict(up_kernel=(5, 5)), TypeError, r"up_kernel: expected an int, got \(5, 5\)"),
        (dict(up_group=3), ValueError, "up_group: expected a divisor of the 8 channels, got 3"),
        (dict(up_group=-1), ValueError, "up_group: expected 1 or more, got -1"),
        (dict(encoder_kernel=2), ValueError, "encoder_kernel: expected an odd number, got 2"),
        (dict(encoder_dilation=0), ValueError, "encoder_dilation: expected 1 or more, got 0"),
        (dict(compressed_channels=0), ValueError, "compressed_channels: expected 1 or more, got 0"),
        (dict(compressed_channels=None), TypeError, "compressed_channels: expected an int, got None"),
    ],
    ids=str,
)
def test_wrong_arguments(options, error, message):
    with pytest.raises(error, match=message):
        CARAFE(**{"channels": 8, **options})


@pytest.mark.parametrize("shape", [(1, 7, 4, 4), (8, 4, 4), (1, 8, 4), (1, 8, 1, 4, 4)], ids=str)
def test_wrong_input(shape):
    text = str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=rf"expected \[N, 8, H, W\], got {text}"):
        CARAFE(8)(torch.rand(shape))
