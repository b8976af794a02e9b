# SPDX-License-Identifier: Apache-2.0
"""What every learned upsampler keeps to, in each of its published forms: derived from the table of types."""

import copy
import pickle

import pytest
import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.model import BaseModule
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from upsamplers import FORMS, every_form, guided, inputs, lively, one_of_each

from mmcarafe.layers import TYPES, DySample, build_upsample
from mmcarafe.layers.sampling import _cached_centres

# Parameters of 256 channels, scale 2, as published or counted in the authors' code.
PARAMETERS = {
    "CARAFE": 74_148,
    "DySample": 8_224,
    "DySample-dyscope=True": 16_416,
    "DySample-style=pl": 520,
    "DySample-style=pl-dyscope=True": 1_032,
    "DLU": 35_489,
    "SAPA": 17_472,
    "SAPA-embedding_dim=64": 33_920,
    "SAPA-norm=group": 17_472,
    "FADE": 47_514,
    "FADE-lite=True": 13_332,
    "FADE-gate=False": 47_257,
}
KEYS = {
    "CARAFE": "channel_compressor.weight channel_compressor.bias content_encoder.weight content_encoder.bias",
    "DySample": "init_pos offset.weight offset.bias",
    "DLU": "channel_compressor.weight channel_compressor.bias kernel_space_generator.weight "
    "kernel_space_generator.bias conv_offset.weight conv_offset.bias",
    "SAPA": "norm_y.weight norm_y.bias norm_x.weight norm_x.bias q.weight q.bias k.weight k.bias",
    "FADE": "gate_generator.conv.weight gate_generator.conv.bias kernel_generator.conv1_en.weight "
    "kernel_generator.conv1_en.bias kernel_generator.conv1_de.weight kernel_generator.conv2_kernels "
    "kernel_generator.conv2_bias",
}


def test_every_form_has_its_numbers():
    assert set(PARAMETERS) == set(FORMS)


@every_form
def test_parameters_are_as_published(name):
    upsample = build_upsample(FORMS[name], 256, 2, guide_channels=256)
    assert sum(parameter.numel() for parameter in upsample.parameters()) == PARAMETERS[name]


@every_form
def test_keys_are_the_authors(name):
    cfg = FORMS[name]
    keys = set(KEYS[cfg["type"]].split())
    if cfg.get("dyscope"):
        keys.add("scope.weight")
    if cfg.get("gate") is False:
        keys -= {"gate_generator.conv.weight", "gate_generator.conv.bias"}
    assert set(lively(name).state_dict()) == keys


def test_shapes_of_the_two_layouts_of_sapa():
    assert lively("SAPA").q.weight.shape == (32, 32)
    assert lively("SAPA-norm=group").q.weight.shape == (32, 32, 1, 1)


@every_form
@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("size", [(5, 3), (1, 1), (1, 4)], ids=str)
def test_output_size(name, scale, size):
    upsample = lively(name, channels=32 * scale**2, scale=scale)
    out = upsample(*inputs(upsample, size))
    assert out.shape == (2, upsample.channels, scale * size[0], scale * size[1])
    assert out.isfinite().all()


@every_form
def test_an_empty_batch_gives_an_empty_output_and_zero_gradients(name):
    upsample = lively(name)
    out = upsample(*inputs(upsample, batch=0))
    assert out.shape == (0, 32, 10, 6)
    out.sum().backward()
    assert all(parameter.grad.eq(0).all() for parameter in upsample.parameters())


@every_form
def test_gradients_are_those_of_finite_differences(name):
    upsample = lively(name).double()
    maps = inputs(upsample, size=(3, 2), batch=1, dtype=torch.float64, requires_grad=True)
    weights = [parameter for parameter in upsample.parameters() if parameter.requires_grad]
    assert torch.autograd.gradcheck(lambda *_: upsample(*maps), (*maps, *weights), fast_mode=True)


@every_form
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_bfloat16_is_float32_rounded(name, memory_format):
    upsample = lively(name).bfloat16()
    maps = [x.contiguous(memory_format=memory_format) for x in inputs(upsample, dtype=torch.bfloat16)]
    out = upsample(*maps)
    assert out.dtype is torch.bfloat16
    expected = upsample.float()(*(x.float() for x in maps))
    assert (out.float() - expected).norm() < 0.05 * expected.norm()


@every_form
def test_autocast(name):
    upsample = lively(name)
    maps = inputs(upsample)
    with torch.autocast("cpu", torch.bfloat16):
        out = upsample(*maps)
        upsample(*(x.bfloat16() for x in maps)).sum().backward()
    expected = upsample(*maps)
    assert (out.float() - expected).norm() < 0.05 * expected.norm()
    assert all(parameter.grad.isfinite().all() for parameter in upsample.parameters())


@pytest.mark.needs_cuda
@every_form
def test_a_gpu_computes_the_same(name):
    upsample = lively(name).double()
    maps = inputs(upsample, dtype=torch.float64)
    expected = upsample(*maps)
    torch.testing.assert_close(upsample.cuda()(*(x.cuda() for x in maps)).cpu(), expected)
    with torch.autocast("cuda", torch.float16):
        out = upsample.float()(*(x.cuda().half() for x in maps))
    assert (out.cpu() - expected).norm() < 0.02 * expected.norm()


def test_a_long_row_is_sampled_in_float32():
    """Half a pixel of 1000 is less than bfloat16 can tell from the next one."""
    upsample = DySample(4, groups=1).bfloat16()
    nn.init.zeros_(upsample.offset.weight)
    ramp = torch.arange(1000.0).expand(1, 4, 2, -1) % 8
    bilinear = nn.functional.interpolate(ramp, scale_factor=2, mode="bilinear")
    torch.testing.assert_close(upsample(ramp.bfloat16()).float(), bilinear, rtol=1e-2, atol=1e-2)


@one_of_each
def test_copies_compute_the_same(name):
    upsample = lively(name)
    maps = inputs(upsample)
    for again in (copy.deepcopy(upsample), pickle.loads(pickle.dumps(upsample))):
        assert again(*maps).equal(upsample(*maps))


def test_pixel_shuffle_is_pickled_too():
    upsample = build_upsample(dict(type="pixel_shuffle"), 4, 2)
    x = torch.rand(1, 4, 3, 2)
    assert pickle.loads(pickle.dumps(upsample))(x).equal(upsample(x))


def test_a_layer_made_on_meta_is_whole_once_it_is_initialised():
    with torch.device("meta"):
        upsample = DySample(4, groups=1)
    upsample = upsample.to_empty(device="cpu")
    nn.init.constant_(upsample.init_pos, 7)
    upsample.init_weights()
    assert upsample.init_pos.equal(DySample(4, groups=1).init_pos)


def test_coordinates_are_made_once_for_each_size_and_serve_training_after_inference():
    _cached_centres.cache_clear()
    upsample = lively("DySample")
    with torch.inference_mode():
        upsample(*inputs(upsample))
    upsample(*inputs(upsample)).sum().backward()
    made = _cached_centres.cache_info()
    assert (made.misses, made.hits) == (2, 2)
    assert made.maxsize < 1000


@every_form
def test_a_fresh_one_is_initialised_as_published_and_an_enclosing_module_leaves_it_so(name):
    class Parent(BaseModule):
        def __init__(self):
            super().__init__(init_cfg=dict(type="Constant", layer=["Conv2d", "Linear"], val=7, bias=7))
            self.upsample = build_upsample(FORMS[name], 64, 2, guide_channels=64)

    fresh = {key: (value.mean(), value.std(correction=0)) for key, value in Parent().state_dict().items()}
    parent = Parent()
    parent.init_weights()
    for key, value in parent.state_dict().items():
        mean, std = fresh[key]
        torch.testing.assert_close(value.std(correction=0), std, rtol=0.4, atol=1e-5, msg=key)
        assert abs(value.mean() - mean) < 0.3 * std + 1e-5 or value.numel() == 1, key


@pytest.mark.parametrize(
    ("name", "key", "std"),
    [
        ("DySample", "offset.weight", 0.001),
        ("DySample-dyscope=True", "scope.weight", 0),
        ("DLU", "kernel_space_generator.weight", 0.001),
        ("DLU", "conv_offset.weight", 0),
        ("SAPA", "q.weight", 0.02 * 0.99),  # truncated
        ("SAPA-norm=group", "q.weight", 0.02),
        ("FADE", "kernel_generator.conv2_kernels", (2 / 9 / (25 + 64)) ** 0.5),
        ("FADE", "kernel_generator.conv1_en.weight", (2 / (64 + 64)) ** 0.5),
    ],
)
def test_standard_deviations_are_the_authors(name, key, std):
    state = build_upsample(FORMS[name], 64, 2, guide_channels=64).state_dict()
    assert state[key].std().item() == pytest.approx(std, rel=0.1)
    assert all(value.eq(0).all() for key, value in state.items() if key.endswith("bias"))


def test_the_initialisation_of_the_forks_by_argument():
    upsample = DySample(64, init_cfg=dict(type="Xavier", layer="Conv2d", distribution="uniform"))
    upsample.init_weights()
    assert upsample.offset.weight.std().item() == pytest.approx((2 / (64 + 32)) ** 0.5, rel=0.1)


@guided
def test_a_guide_of_another_size_is_refused(name):
    upsample = lively(name)
    x, guide = inputs(upsample)
    message = r"expected a guide of \(2, 32, 10, 6\), got \(2, 32, 9, 6\)"
    with pytest.raises(ValueError, match=message):
        upsample(x, guide[:, :, :9])
    with pytest.raises(ValueError, match=r"expected \[N, 32, H, W\], got \(2, 31, 5, 3\)"):
        upsample(x[:, :31], guide)


@pytest.mark.parametrize(
    ("kind", "options", "error", "message"),
    [
        ("DySample", dict(style="xx"), ValueError, "style: expected 'lp' or 'pl', got 'xx'"),
        ("DySample", dict(groups=3), ValueError, "groups: expected a divisor of the 8 channels, got 3"),
        (
            "DySample",
            dict(style="pl", scale_factor=3),
            ValueError,
            "expected a multiple of 9 channels, got 8",
        ),
        ("DySample", dict(groups=1.0), TypeError, "groups: expected an int, got 1.0"),
        ("DLU", dict(up_kernel=4), ValueError, "up_kernel: expected an odd number, got 4"),
        ("SAPA", dict(norm="batch"), ValueError, "norm: expected 'layer' or 'group', got 'batch'"),
        ("SAPA", dict(embedding_dim=0), ValueError, "embedding_dim: expected 1 or more, got 0"),
        (
            "FADE",
            dict(guide_channels=4),
            ValueError,
            "expected a guide of 8 channels, .*, got 4; set gate=False",
        ),
    ],
)
def test_wrong_arguments(kind, options, error, message):
    layer = TYPES[kind].module()
    options = {**(dict(guide_channels=8) if layer.guided else {}), **options}
    with pytest.raises(error, match=message):
        layer(8, **options)


@one_of_each
def test_flops_are_counted_and_grow_with_the_map(name):
    upsample = lively(name)

    def flops(size):
        with FlopCounterMode(display=False) as counter:
            upsample(*inputs(upsample, size))
        return counter.get_total_flops()

    assert flops((4, 6)) == 4 * flops((2, 3)) > 0


def test_mmengines_analyzer_counts_similarity_and_reassembly():
    upsample = lively("SAPA")
    maps = inputs(upsample)
    counted = FlopAnalyzer(upsample, tuple(maps)).by_operator()["carafe"]
    taps = upsample.up_kernel**2 * maps[1][:, 0].numel()
    assert counted == taps * (upsample.embedding_dim + upsample.channels)
