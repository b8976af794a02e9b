# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels against loop and reference: compiled on a GPU, by Triton's interpreter elsewhere."""

from itertools import product
from math import prod

import pytest
import torch
from hypothesis import strategies as st
from samples import DOWNSAMPLES, SAMPLES, TOLERANCE, Downsample, Sample, assert_close, needs_triton
from samples import TRITON_DEVICE as DEVICE
from sweep import REFERENCE, Ops, check, sweep

from mmcarafe.ops import triton_backend, triton_dot_backend, triton_starting
from mmcarafe.ops.carafe_downsample import DOWNSAMPLE_KERNELS

pytest.importorskip("triton", reason="Triton, an optional requirement, is not installed")
pytestmark = [pytest.mark.uses_cuda, needs_triton]

OPS = {
    Sample: Ops(triton_backend.carafe, triton_backend.grad_features, triton_backend.grad_masks),
    Downsample: Ops(*triton_backend.DOWNSAMPLE_KERNELS.values()),
}
EXPECTED = {Sample: REFERENCE, Downsample: Ops(*DOWNSAMPLE_KERNELS.values())}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
every_format = pytest.mark.parametrize("memory_format", FORMATS.values(), ids=FORMATS)
KERNELS = ("carafe", "grad_features", "grad_masks")
SAMPLE = Sample(2, 4, 3, 5, k=3, groups=2, scale=2)
# downsampling runs on the same kernels: without --slow the interpreter runs it at two strides only
SLOW = [pytest.mark.slow] if DEVICE == "cpu" else []
every_kind = pytest.mark.parametrize("kind", [Sample, pytest.param(Downsample, marks=SLOW)])


def run(kind, features, masks, grad, args, ops=OPS):
    """Output and both gradients."""
    return (
        ops[kind].carafe(features, masks, *args),
        ops[kind].grad_features(grad, masks, *args),
        ops[kind].grad_masks(grad, features, *args),
    )


def calls():
    """Everything on a GPU. In the interpreter, which is slow, every sample in float32 and every second one
    channels last too; two in the other dtypes, which are cast as they are read."""
    for samples in (SAMPLES, DOWNSAMPLES):
        for (i, sample), dtype, name in product(enumerate(samples), triton_backend.DTYPES, FORMATS):
            usual = dtype == torch.float32 and (name == "contiguous" or i % 2 == 0)
            if DEVICE == "cuda" or usual or i < 2:
                few = samples is SAMPLES or (dtype == torch.float32 and i in (1, 4))
                long = not few or (name == "channels_last" and prod(sample.shapes[1]) > 3500)
                marks, label = SLOW if long else [], f"{sample}-{str(dtype)[6:]}-{name}"
                yield pytest.param(sample, dtype, FORMATS[name], marks=marks, id=label)


@pytest.mark.parametrize(("sample", "dtype", "memory_format"), list(calls()))
def test_output_and_gradients_equal_the_loop(sample, dtype, memory_format):
    tensors = [t.contiguous(memory_format=memory_format) for t in sample.tensors(dtype, DEVICE)]
    for actual, expected in zip(run(type(sample), *tensors, sample.args), sample.expected(), strict=True):
        assert actual.dtype == dtype
        assert_close(actual.cpu(), expected)


@every_format
@pytest.mark.parametrize("dtype", triton_backend.DTYPES, ids=str)
@pytest.mark.parametrize("sample", SAMPLES[:2], ids=str)
def test_output_and_gradients_without_tensor_cores_equal_the_loop(sample, dtype, memory_format, plain):
    tensors = [t.contiguous(memory_format=memory_format) for t in sample.tensors(dtype, DEVICE)]
    for actual, expected in zip(run(Sample, *tensors, sample.args), sample.expected(), strict=True):
        assert_close(actual.cpu(), expected)


CONTIGUOUS, CHANNELS_LAST = FORMATS.values()
P4 = dict(shape=(1, 256, 50, 84), k=5, scale=2, dtype=torch.float32, memory_format=CONTIGUOUS)


@pytest.mark.parametrize(
    ("changes", "dots"),
    [
        ({}, KERNELS),
        (dict(memory_format=CHANNELS_LAST), KERNELS[2:]),
        (dict(dtype=torch.bfloat16), KERNELS),
        (dict(dtype=torch.float16, memory_format=CHANNELS_LAST, k=9, scale=1), KERNELS),
        (dict(dtype=torch.float16, k=11), ()),
        (dict(k=7), ()),
        (dict(scale=3), ()),
        (dict(scale=4), ()),
        (dict(shape=(1, 2, 2**14, 2**14)), ()),  # offsets in a tile of the target are past 32 bits
    ],
    ids=str,
)
def test_which_calls_go_to_tensor_cores(changes, dots, monkeypatch):
    shape, k, scale, dtype, memory_format = (P4 | changes).values()
    N, C, H, W = shape

    def empty(channels, s):
        t = torch.empty(N, channels, s * H, s * W, dtype=dtype, device="meta")
        return t.to(memory_format=memory_format)

    started = []
    monkeypatch.setattr(triton_starting, "start", lambda kernel, *args: started.append(kernel.__name__))
    run(Sample, empty(C, 1), empty(k * k, scale), empty(C, scale), (k, 1, scale))
    assert started == [f"{name}_dot_kernel" if name in dots else f"{name}_kernel" for name in KERNELS]


@every_kind
def test_sweep_equals_the_reference(kind):
    sizes = dict(dtype=st.sampled_from(triton_backend.DTYPES))
    if DEVICE == "cpu":  # the interpreter takes a second for what a GPU does in microseconds
        sizes |= dict(H=st.integers(1, 4), per_group=st.sampled_from([1, 3, 5, 17]), groups=st.integers(1, 2))
        sizes |= dict(k=st.sampled_from([1, 3, 5]))
    sweep(
        lambda z: check(z, OPS[kind], DEVICE, EXPECTED[kind], downsample=kind is Downsample),
        examples=3 if DEVICE == "cpu" else 60,
        **sizes,
    )


@every_kind
@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize(
    "layout",
    [
        "transposed",
        "expanded",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("channels_last", "every_second", "odd_rows")
        ),
    ],
)
def test_layout_of_each_tensor_changes_no_value(which, layout, kind):
    """What is not adjacent, or not aligned in pairs, is read in place."""
    tensors = kind(*SAMPLE).tensors(torch.float32, DEVICE)
    t = tensors[which]
    if layout == "channels_last":
        other = t.contiguous(memory_format=torch.channels_last)
    elif layout == "transposed":
        other = t.transpose(2, 3).contiguous().transpose(2, 3)
    elif layout == "every_second":
        other = torch.stack([t, torch.full_like(t, torch.nan)], 4).flatten(3)[..., ::2]
    elif layout == "odd_rows":
        other = torch.nn.functional.pad(t, [0, 1, 0, 1], value=torch.nan)[..., :-1, :-1]
    else:
        tensors[which] = t = t[:1, :1].expand_as(t).contiguous()
        other = t[:1, :1].expand_as(t)
    assert other.stride() != t.stride() and other.equal(t)
    plain = run(kind, *tensors, SAMPLE.args)
    tensors[which] = other
    for actual, expected in zip(run(kind, *tensors, SAMPLE.args), plain, strict=True):
        assert_close(actual.cpu(), expected.cpu())


@every_kind
@every_format
@pytest.mark.parametrize(("dtype", "large"), [(torch.float16, 2048), (torch.bfloat16, 256)], ids=str)
def test_half_precision_is_accumulated_in_float32(dtype, large, memory_format, kind):
    """In half precision the large number plus one is the large number again."""
    features = torch.ones(1, 41, 3, 3, dtype=dtype, device=DEVICE).contiguous(memory_format=memory_format)
    masks = torch.ones(1, 9, 3, 3, dtype=dtype, device=DEVICE).contiguous(memory_format=memory_format)
    first_pixel, first_channel = features.clone(), features.clone()
    first_pixel[..., 0, 0] = large
    first_channel[:, 0] = large
    ops = OPS[kind]
    assert ops.carafe(first_pixel, masks, 3, 1, 1)[..., 1, 1].eq(large + 8).all()
    assert ops.grad_features(first_pixel, masks, 3, 1, 1)[..., 1, 1].eq(large + 8).all()
    assert ops.grad_masks(features, first_channel, 3, 1, 1)[..., 1, 1].eq(large + 40).all()


# numpy's, in the interpreter
ignores_overflow = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")


LARGEST = torch.finfo(torch.float32).max


@ignores_overflow
@every_format
@pytest.mark.parametrize("value", [torch.nan, torch.inf, LARGEST])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_not_finite_spreads_as_in_the_reference(value, dtype, memory_format):
    """To a product of matrices zero times infinity is NaN, and TF32 makes the largest float infinite."""
    x, m, grad = torch.randn(1, 5, 9, 20), torch.randn(1, 25, 18, 40), torch.randn(1, 5, 18, 40)
    x[0, 2, 4, 10] = grad[0, 2, 9, 20] = value
    x, m, grad = (t.to(DEVICE, dtype, memory_format=memory_format) for t in (x, m, grad))
    finite = []
    for ours, theirs in zip(
        run(Sample, x, m, grad, (5, 1, 2)), run(Sample, x, m, grad, (5, 1, 2), EXPECTED), strict=True
    ):
        assert torch.equal(ours.isnan(), theirs.isnan())
        assert torch.equal(ours.isfinite(), theirs.isfinite())
        finite.append(bool(theirs.isfinite().all()))
    assert not any(finite) or value == LARGEST


@pytest.mark.parametrize("k", [3, pytest.param(5, marks=SLOW)])
def test_nan_and_inf_spoil_what_reads_them_when_downsampling(k):
    """The kernels also read pixels that a kernel does not reach, and leave them out."""
    sample = Downsample(1, 1, 3, 5, k=k, groups=1, scale=2)
    features, masks, grad = sample.tensors(torch.float32)
    features[0, 0, 1, 3], features[0, 0, 4, 6] = torch.inf, torch.nan
    grad[0, 0, 1, 2] = torch.inf
    expected = sample.loop(features, masks, *sample.args)
    leaf = features.nan_to_num(0, 0, 0).requires_grad_()
    (to_features,) = torch.autograd.grad(sample.loop(leaf, masks, *sample.args), leaf, grad)
    ops, (x, m, g) = OPS[Downsample], (t.to(DEVICE) for t in (features, masks, grad))
    for actual, wanted in (
        (ops.carafe(x, m, *sample.args), expected),
        (ops.grad_features(g, m, *sample.args), to_features),
    ):
        assert actual.cpu().isfinite().equal(wanted.isfinite())
        assert not wanted.isfinite().all() and wanted.isfinite().any()


@pytest.fixture
def plain(monkeypatch):
    """Leaves every call to the kernels without matrix products."""
    monkeypatch.setattr(triton_dot_backend, "TILES", {})


TILES = [(name, axis, i) for (name, axis), tiles in triton_backend.TILES.items() for i in range(len(tiles))]


@pytest.mark.slow
@every_kind
@pytest.mark.parametrize(("name", "axis", "i"), TILES)
def test_every_tile_that_may_be_chosen_computes_the_same(name, axis, i, kind, plain, monkeypatch):
    sample = kind(1, 70, 2, 7, k=3, groups=1, scale=2)
    monkeypatch.setitem(triton_backend.TILES, (name, axis), triton_backend.TILES[name, axis][i : i + 1])
    memory_format = list(FORMATS.values())[axis]
    tensors = [t.contiguous(memory_format=memory_format) for t in sample.tensors(torch.float32, DEVICE)]
    expected = run(kind, *tensors, sample.args, EXPECTED)
    for actual, wanted in zip(run(kind, *tensors, sample.args), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("W", [1, 5, 14, 16, 21, 42, 168])
@pytest.mark.parametrize(("H", "rows", "c_axis"), list(product([1, 14, 100], [1, 4], [0, 1])))
def test_a_tile_has_whole_rows(W, H, rows, c_axis):
    tile = triton_backend.Tile(32, 32)
    px = triton_backend._row(W, H, tile, rows, c_axis)
    assert px <= tile.BP and tile.BP % px == 0


@every_kind
def test_an_image_beyond_32_bits_is_read_and_written_in_place(kind, monkeypatch):
    """Images 2**31 elements apart in memory."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    sample, ops = kind(*SAMPLE), OPS[kind]
    features, masks, grad = sample.tensors(torch.bfloat16, DEVICE)
    apart = torch.empty(2**31 + features[0].numel(), dtype=torch.bfloat16, device=DEVICE)
    far = apart.as_strided(features.shape, (2**31, *features.stride()[1:])).copy_(features)
    out = ops.carafe(far, masks, *SAMPLE.args)
    assert_close(out.cpu(), sample.expected()[0])
    for empty in ("empty_carafe", "empty_grad_features"):
        monkeypatch.setattr(triton_backend, empty, lambda *args: far.fill_(torch.nan))
    assert_close(ops.grad_features(grad, masks, *SAMPLE.args).cpu(), sample.expected()[1])


@pytest.mark.skipif(DEVICE == "cuda", reason="times are made up, as the interpreter has none")
def test_tiles_chosen_by_timing_compute_the_same(plain, monkeypatch):
    """Autotuning with a clock that finds the last tile the fastest: all are run, and the last is used."""
    triton = pytest.importorskip("triton")
    calls, configs = [], []

    def clock(call, quantiles):
        call()
        calls.append(call)
        return [1 / len(calls)] * 3

    original = triton.autotune

    def autotune(candidates, key):
        configs.extend(candidates)
        return original(candidates, key=key, do_bench=clock)

    monkeypatch.setattr(triton, "autotune", autotune)
    monkeypatch.setenv("MMCARAFE_TRITON_AUTOTUNE", "1")
    triton_backend._tuned.cache_clear()
    try:
        for _ in range(2):
            tensors = SAMPLE.tensors(torch.float32, DEVICE)
            for actual, expected in zip(run(Sample, *tensors, SAMPLE.args), SAMPLE.expected(), strict=True):
                assert_close(actual, expected)
        assert len(calls) == len(configs) == sum(len(triton_backend.TILES[name, 0]) for name in KERNELS)
    finally:
        triton_backend._tuned.cache_clear()


@pytest.mark.needs_cuda
def test_tiles_timed_on_a_gpu_compute_the_same(plain, monkeypatch):
    monkeypatch.setenv("MMCARAFE_TRITON_AUTOTUNE", "1")
    triton_backend._tuned.cache_clear()
    tensors = SAMPLE.tensors(torch.float32, DEVICE)
    for actual, expected in zip(run(Sample, *tensors, SAMPLE.args), SAMPLE.expected(), strict=True):
        assert_close(actual.cpu(), expected)
    triton_backend._tuned.cache_clear()


@every_kind
def test_the_same_bits_again(kind):
    tensors = kind(*SAMPLE).tensors(torch.float32, DEVICE)
    first, second = (run(kind, *tensors, SAMPLE.args) for _ in range(2))
    assert all(a.equal(b) for a, b in zip(first, second, strict=True))


def test_tolerances_are_those_of_every_implementation():
    assert set(triton_backend.DTYPES) == set(TOLERANCE) - {torch.float64}
