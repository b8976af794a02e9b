# SPDX-License-Identifier: Apache-2.0
"""The operator inside torch.compile, torch.export, autocast and the FLOP counter."""

import pytest
import torch
from samples import SAMPLES, Downsample, Sample, assert_close
from torch.utils.flop_counter import FlopCounterMode

from mmcarafe import carafe

SAMPLE = Sample(2, 4, 3, 5, k=3, groups=2, scale=2)
SAMPLE_OF_EACH = [SAMPLE, Downsample(*SAMPLE)]
of_each = pytest.mark.parametrize("sample", SAMPLE_OF_EACH, ids=str)


class Upsample(torch.nn.Module):
    """The operator between two other layers."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 9, 3, padding=1)

    def forward(self, x):
        masks = self.conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3)).softmax(1)
        return carafe(x.relu(), masks, 3, 1, 2) * 2


def results(function, sample, dtype=torch.float32):
    features, masks, grad = sample.tensors(dtype, requires_grad=True)
    out = function(features, masks, *sample.args)
    return out.detach(), *torch.autograd.grad(out, (features, masks), grad)


@pytest.fixture
def compiler():
    """Forgets what was compiled, so that one test's recompilations do not count for another."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    "sample", [*SAMPLE_OF_EACH, *(s for s in SAMPLES if 0 in s or s.H * s.W == 1)], ids=str
)
def test_compiled_without_graph_break_equals_eager(sample):
    compiled = torch.compile(sample.operator, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(results(compiled, sample), sample.expected(), strict=True):
        assert_close(actual, expected)


@pytest.mark.usefixtures("compiler")
@of_each
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_inductor_equals_eager(memory_format, sample):
    """The operator alone: torch's generated kernels would take a C++ compiler and half a minute."""
    compiled = torch.compile(sample.operator, fullgraph=True)

    def function(features, masks, *args):
        return compiled(features.contiguous(memory_format=memory_format), masks, *args)

    for actual, expected in zip(results(function, sample), sample.expected(), strict=True):
        assert_close(actual, expected)


@pytest.mark.usefixtures("compiler")
def test_compiled_checks_still_raise():
    features, masks, _ = SAMPLE.tensors()
    compiled = torch.compile(carafe, backend="aot_eager")
    with pytest.raises(ValueError, match="kernel_size: expected an odd number, got 4"):
        compiled(features, masks, 4, 2, 2)


def test_exported_program_holds_the_operator_and_equals_eager():
    model, x = Upsample(), torch.randn(2, 4, 5, 6)
    height = torch.export.Dim("height", min=2, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes=({2: height},))
    targets = [node.target for node in program.graph.nodes]
    assert targets.count(torch.ops.mmcarafe.carafe.default) == 1
    for other in (x, torch.randn(2, 4, 9, 6)):
        assert program.module()(other).equal(model(other))


@pytest.mark.needs(torch="2.13")  # takes the smaller of a side and its double for a bound
def test_exported_with_dynamic_height_and_width():
    model = Upsample()
    sizes = {2: torch.export.Dim("height", min=2, max=64), 3: torch.export.Dim("width", min=2, max=64)}
    program = torch.export.export(model, (torch.randn(2, 4, 5, 6),), dynamic_shapes=(sizes,))
    for shape in ((5, 6), (9, 3), (31, 64)):
        x = torch.randn(2, 4, *shape)
        assert program.module()(x).equal(model(x))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("backward", [False, True])
def test_one_compilation_serves_all_sizes(backward):
    model = Upsample()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for i, shape in enumerate(((2, 4, 5, 6), (2, 4, 9, 7), (3, 4, 16, 11), (2, 4, 40, 3))):
        x = torch.randn(shape, requires_grad=backward)
        with torch.compiler.set_stance("fail_on_recompile" if i else "default"):
            out = compiled(x)
        assert_close(out, model(x))
        if backward:
            (grad,) = torch.autograd.grad(out.sum(), x)
            (expected,) = torch.autograd.grad(model(x).sum(), x)
            assert_close(grad, expected, rtol=1e-4, atol=1e-4)


@of_each
@pytest.mark.parametrize("in_dims", [(0, 0), (1, None), (None, 2), (-1, 3)], ids=str)
def test_vmap_equals_a_loop(in_dims, sample):
    features, masks, _ = sample.tensors(torch.float64)
    pair = [
        t if d is None else torch.stack([t, t.flip(0), -t], d)
        for t, d in zip((features, masks), in_dims, strict=True)
    ]
    pair = [t.requires_grad_() for t in pair]

    def at(i):
        return [t if d is None else t.select(d, i) for t, d in zip(pair, in_dims, strict=True)]

    out = torch.func.vmap(lambda f, m: sample.operator(f, m, *sample.args), in_dims)(*pair)
    loop = torch.stack([sample.operator(*at(i), *sample.args) for i in range(3)])
    assert_close(out, loop)
    for got, expected in zip(
        *(torch.autograd.grad(y.square().sum(), pair) for y in (out, loop)), strict=True
    ):
        assert_close(got, expected)


def test_vmap_of_both_gradients_equals_a_loop():
    features, masks, grad = SAMPLE.tensors(torch.float64)
    grads, masks_inside = torch.stack([grad, -grad.flip(1)]), torch.stack([masks, masks.flip(2)], 2)
    op, args = torch.ops.mmcarafe.carafe_backward.default, SAMPLE.args
    got = torch.func.vmap(lambda g, m: op(g, features, m, *args), (0, 2))(grads, masks_inside)
    for i in range(2):
        expected = op(grads[i], features, masks_inside[:, :, i], *args)
        for both, one in zip(got, expected, strict=True):
            assert_close(both[i], one)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_traced_program_equals_eager():
    model, x = Upsample(), torch.randn(2, 4, 5, 6)
    traced = torch.jit.trace(model, x)
    for other in (x, torch.randn(3, 4, 9, 7)):
        assert traced(other).equal(model(other))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@of_each
def test_autocast_computes_in_its_dtype_and_returns_gradients_in_the_inputs_dtype(dtype, sample):
    features, masks, grad = sample.tensors(torch.float32, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        out = sample.operator(features, masks, *sample.args)
    assert out.dtype == dtype
    out.backward(grad.to(dtype))
    assert features.grad.dtype == masks.grad.dtype == torch.float32
    for actual, expected in zip((out, features.grad, masks.grad), sample.expected(), strict=True):
        assert_close(actual, expected, rtol=2**-7, atol=1e-5)


@of_each
def test_autocast_accepts_mixed_dtypes(sample):
    features, masks, _ = sample.tensors(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = sample.operator(features, masks.bfloat16(), *sample.args)
        assert out.equal(sample.operator(features.bfloat16(), masks, *sample.args))
    assert_close(out, sample.expected()[0])


@of_each
def test_autocast_leaves_float64_alone_as_torch_does(sample):
    features, masks, _ = sample.tensors(torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (features[0, 0] @ features[0, 0].T).dtype == torch.float64
        out = sample.operator(features, masks, *sample.args)
    assert out.dtype == torch.float64


@pytest.mark.needs(torch="2.11")
@pytest.mark.usefixtures("compiler")
def test_autocast_inside_a_compiled_function():
    features, masks, _ = SAMPLE.tensors(torch.float32)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def function(features, masks):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return carafe(features, masks, *SAMPLE.args)

    out = function(features, masks)
    assert out.dtype == torch.bfloat16
    assert_close(out, SAMPLE.expected()[0])


@pytest.mark.parametrize(
    "sample", [*SAMPLE_OF_EACH, Sample(1, 6, 4, 5, 5, 1, 3), Downsample(1, 6, 4, 5, 5, 1, 3)], ids=str
)
def test_flops_are_one_multiply_and_one_add_for_each_term(sample):
    features, masks, _ = sample.tensors(requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        out = sample.operator(features, masks, *sample.args)
    flops = 2 * sample.k**2 * out.numel()
    assert counter.get_total_flops() == flops
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    assert counter.get_total_flops() == 2 * flops
