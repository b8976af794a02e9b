# SPDX-License-Identifier: Apache-2.0
"""Every type of upsampler is exported as the table of types says, and computes the same at other sizes."""

import pytest
import torch
from torch.nn import functional as F

from mmcarafe.deploy.exporting import program_of, save
from mmcarafe.deploy.gathering import sample_by_gather
from mmcarafe.deploy.parts import Part, part_of, upsampler_part
from mmcarafe.deploy.verifying import other_inputs, verify
from mmcarafe.errors import InputError
from mmcarafe.layers import TYPES, build_upsample

CHANNELS = 32
# a guided one stands for the others in the usual run, and gathers are compared with torch's below
USUAL = ("SAPA",)
SAMPLED = [kind for kind, row in TYPES.items() if "GridSample" in row.onnx]
CASES = {
    f"{kind}, gathered" if gather else kind: (kind, gather)
    for kind in TYPES
    for gather in ([False, True] if kind in SAMPLED else [False])
}


def part(kind: str, scale: int = 2, **options) -> Part:
    """A type alone, its weights far from zero, where a fresh one's say little."""
    torch.manual_seed(0)
    layer = build_upsample(dict(type=kind, **options), CHANNELS, scale, guide_channels=CHANNELS).eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return upsampler_part(layer, 6, 5)


@pytest.mark.needs(torch="2.10")
@pytest.mark.parametrize(
    ("kind", "gather"),
    [
        pytest.param(*case, id=name, marks=() if name in USUAL else pytest.mark.slow)
        for name, case in CASES.items()
    ],
)
def test_onnx_runtime_computes_the_same_at_odd_sizes(kind, gather, tmp_path):
    onnx = pytest.importorskip("onnx", reason="the ONNX tools are not installed")
    pytest.importorskip("onnxscript", reason="the ONNX tools are not installed")
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    exported, path = part(kind), tmp_path / "upsampler.onnx"
    save(program_of(exported, dynamic=True, gather=gather), exported, path, 19)
    given = other_inputs(exported, [], dynamic=True)
    assert {x[0].shape[2:] for x in given.values()} == {(6, 5), (7, 7), (5, 5)}
    verify(path, exported, given, tolerance=1e-5)
    nodes = {node.op_type for node in onnx.load(path).graph.node}
    assert ("GridSample" in nodes) == (kind in SAMPLED and not gather)
    assert {domain.domain for domain in onnx.load(path).opset_import} <= {"", "ai.onnx"}  # standard operators
    assert TYPES[kind].onnx == "yes" or kind in SAMPLED


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, dict(dyscope=True), dict(style="pl")], ids=["lp", "dyscope", "pl"])
def test_a_gathered_program_equals_the_layer(options, tmp_path):
    exported, path = part("DySample", **options), tmp_path / "upsampler.pt2"
    save(program_of(exported, dynamic=True, gather=True), exported, path, 19)
    verify(path, exported, other_inputs(exported, [], dynamic=True), tolerance=1e-5)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("padding", "name"), [(0, "zeros"), (1, "border")])
@pytest.mark.parametrize("size", [(5, 7), (1, 3), (2, 1)])
def test_gathers_sample_as_grid_sample_does(size, padding, name, align_corners):
    x = torch.randn(3, 4, *size, dtype=torch.float64)
    grid = torch.rand(3, 9, 11, 2, dtype=torch.float64) * 3 - 1.5  # a quarter of the points is outside
    expected = F.grid_sample(x, grid, "bilinear", name, align_corners)
    torch.testing.assert_close(sample_by_gather(x, grid, 0, padding, align_corners), expected)


class Reflected(torch.nn.Module):
    def forward(self, x):
        return F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), padding_mode="reflection", align_corners=False)


def test_another_sampling_is_named():
    x = torch.rand(2, 3, 4, 4)
    with pytest.raises(InputError, match=r"--gather: expected bilinear .* padding mode 2; leave"):
        program_of(Part(Reflected(), (x,), [1]), dynamic=False, gather=True)


@pytest.mark.parametrize("kind", TYPES)
def test_the_part_takes_what_the_layer_takes(kind):
    for scale in (2, 3):
        found = part(kind, scale)
        assert len(found.inputs) == 1 + TYPES[kind].guided
        assert found.scale == scale
        assert found.module(*found.inputs).shape[2:] == (6 * scale, 5 * scale)


def test_a_learned_upsampler_goes_before_a_backbones_interpolation():
    detector = torch.nn.Module()
    detector.backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.Upsample(scale_factor=2))
    assert part_of(detector, "upsampler", [64, 64]).module is detector.backbone[1]
    detector.neck = build_upsample(dict(type="FADE"), 8, 2, guide_channels=8)
    found = part_of(detector, "upsampler", [64, 64])
    assert found.module is detector.neck
    assert [x.shape[1:] for x in found.inputs] == [(8, 8, 8), (8, 16, 16)]
