# SPDX-License-Identifier: Apache-2.0
"""The operator as ONNX: the loop's values in ONNX Runtime, of standard operators, with sizes chosen later."""

import pytest
import torch
from samples import DOWNSAMPLES, SAMPLES, Downsample, Sample, assert_close
from torch.export import Dim

from mmcarafe.ops import carafe_downsample

pytest.importorskip("onnxscript", reason="the ONNX tools, an optional requirement, are not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")


class Operator(torch.nn.Module):
    """The operator with its sizes."""

    def __init__(self, sample: Sample):
        super().__init__()
        self.operator, self.args = sample.operator, sample.args

    def forward(self, features, masks):
        return self.operator(features, masks, *self.args)


def exported(sample: Sample, dynamic: bool):
    """The operator as ONNX."""
    from mmcarafe.ops.onnx import translation_table

    h, w, batch = Dim("h", min=1), Dim("w", min=1), Dim("batch", min=1)
    s = sample.scale
    shapes = ({0: batch, 2: h, 3: w}, {0: batch, 2: s * h, 3: s * w})
    if isinstance(sample, Downsample):
        shapes = shapes[::-1]
    return torch.onnx.export(
        Operator(sample),
        tuple(sample.tensors(torch.float32)[:2]),
        dynamo=True,
        dynamic_shapes=shapes if dynamic else None,
        custom_translation_table=translation_table(),
        verbose=False,
    ).model_proto


def run(model, features, masks):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {i.name: t.numpy() for i, t in zip(session.get_inputs(), (features, masks), strict=True)}
    return torch.from_numpy(session.run(None, feeds)[0])


# one of each kernel size, number of groups and scale: what else differs is not in the graph
ONE_OF_EACH = {(type(s), s.args): s for s in [*SAMPLES, *DOWNSAMPLES[:2]] if 0 not in s}


@pytest.mark.parametrize(
    "sample",
    # a kernel of 49 or 81 taps makes as many nodes
    [pytest.param(s, marks=pytest.mark.slow if s.k > 5 else ()) for s in ONE_OF_EACH.values()],
    ids=str,
)
def test_equals_the_loop(sample):
    features, masks, _ = sample.tensors(torch.float32)
    assert_close(run(exported(sample, dynamic=False), features, masks), sample.expected()[0])


@pytest.mark.parametrize(
    ("kind", "groups", "scale", "k"),
    [(Sample, 1, 2, 5), (Sample, 2, 3, 3), (Sample, 1, 1, 3), (Downsample, 2, 2, 5)],
)
def test_batch_height_and_width_are_chosen_later(kind, groups, scale, k):
    sample = kind(2, 4, 6, 7, k=k, groups=groups, scale=scale)
    model = exported(sample, dynamic=True)
    for N, H, W in ((2, 6, 7), (1, 9, 4), (3, 2, 13), (1, 1, 1)):
        other = sample._replace(N=N, H=H, W=W)
        features, masks, _ = other.tensors(torch.float32)
        assert_close(run(model, features, masks), other.expected()[0])


@pytest.mark.needs(torch="2.10")
def test_standard_operators_only_and_nothing_unfolded():
    sample = Sample(1, 64, 8, 12, k=5, groups=2, scale=2)  # two by three tiles
    model = exported(sample, dynamic=False)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert not model.functions
    largest = max(
        torch.Size([d.dim_value for d in value.type.tensor_type.shape.dim]).numel()
        for value in model.graph.value_info
    )
    features, masks, out = (torch.Size(shape).numel() for shape in sample.shapes)
    assert largest <= max(out, 4 * features, masks * 64 // 25)
    assert largest < 25 * features


def test_a_program_that_downsamples_takes_odd_sizes_too():
    class Strided(torch.nn.Module):
        """Masks as the layer has them, from a convolution with a stride."""

        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(4, 9, 3, stride=2, padding=1)

        def forward(self, x):
            return carafe_downsample(x, self.conv(x).softmax(1), 3, 1, 2)

    from mmcarafe.ops.onnx import translation_table

    module = Strided()
    program = torch.onnx.export(
        module,
        (torch.randn(1, 4, 8, 11),),
        dynamo=True,
        dynamic_shapes=({2: Dim("h", min=3), 3: Dim("w", min=3)},),
        custom_translation_table=translation_table(),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    (name,) = (i.name for i in session.get_inputs())
    for size in ((8, 11), (7, 12), (5, 5), (3, 4)):
        x = torch.randn(1, 4, *size)
        out = torch.from_numpy(session.run(None, {name: x.numpy()})[0])
        assert_close(out, module(x).detach())
