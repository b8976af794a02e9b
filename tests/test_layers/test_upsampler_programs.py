# SPDX-License-Identifier: Apache-2.0
"""Every learned upsampler compiles and is a program of torch.export, at other sizes than traced."""

import torch
from upsamplers import inputs, lively, one_of_each


@one_of_each
def test_compiled_without_graph_break_equals_eager(name):
    torch.compiler.reset()
    upsample = lively(name)
    maps = inputs(upsample)
    compiled = torch.compile(upsample, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*maps), upsample(*maps))


def export(upsample):
    """Its program for maps of any height and width."""
    maps = inputs(upsample)
    s, (h, w) = upsample.scale_factor, torch.export.dims("h", "w", min=2, max=64)
    sizes = ({2: h, 3: w}, {2: s * h, 3: s * w})[: len(maps)]
    return torch.export.export(upsample, tuple(maps), dynamic_shapes=sizes)


@one_of_each
def test_exported_equals_eager_at_another_size(name):
    upsample = lively(name).eval()
    others = inputs(upsample, size=(4, 7))
    torch.testing.assert_close(export(upsample).module()(*others), upsample(*others))


@one_of_each
def test_several_maps_or_models_at_once(name):
    upsample, other = lively(name).eval(), lively(name).eval()
    maps = [torch.stack([x, x.flip(0), 2 * x]) for x in inputs(upsample)]
    expected = torch.stack([upsample(*each) for each in zip(*maps, strict=True)])
    near = dict(rtol=1e-4, atol=1e-4)  # sums in another order
    torch.testing.assert_close(torch.vmap(upsample)(*maps), expected, **near)
    parameters, buffers = torch.func.stack_module_state([upsample, other])

    def run(parameters, buffers):
        return torch.func.functional_call(upsample, (parameters, buffers), tuple(x[0] for x in maps))

    both = torch.stack([module(*(x[0] for x in maps)) for module in (upsample, other)])
    torch.testing.assert_close(torch.vmap(run)(parameters, buffers), both, **near)


def test_a_transform_leaves_nothing_behind_for_the_next():
    """Coordinates that DySample keeps are not those that a transform of torch.func wrapped."""
    upsample = lively("DySample").eval()
    x = inputs(upsample, size=(2, 3))[0][:1]

    def loss(x):
        return upsample(x).square().sum()

    torch.func.jacrev(torch.func.grad(loss))(x)
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(x), expected)
