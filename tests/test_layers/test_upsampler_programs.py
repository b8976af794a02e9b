# SPDX-License-Identifier: Apache-2.0
"""Every learned upsampler compiles, exports, and runs in ONNX Runtime, at other sizes than traced."""

import pytest
import torch
from upsamplers import inputs, lively, one_of_each

slow = pytest.mark.slow


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


@pytest.mark.parametrize(
    "name", ["DySample", "SAPA", *(pytest.param(name, marks=slow) for name in ("DLU", "FADE"))]
)
def test_onnx_runtime_computes_the_same_at_another_size(name, tmp_path):
    pytest.importorskip("onnxscript", reason="the ONNX tools, an optional requirement, are not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    from mmcarafe.ops.onnx import translation_table

    upsample = lively(name).eval()
    program = torch.onnx.export(
        export(upsample), dynamo=True, verbose=False, custom_translation_table=translation_table()
    )
    program.save(tmp_path / "upsampler.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "upsampler.onnx")
    maps = inputs(upsample, size=(4, 7))
    names = [entry.name for entry in session.get_inputs()]
    (out,) = session.run(None, {name: x.numpy() for name, x in zip(names, maps, strict=True)})
    torch.testing.assert_close(torch.from_numpy(out), upsample(*maps), rtol=1e-4, atol=1e-4)
