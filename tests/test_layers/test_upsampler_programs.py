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
