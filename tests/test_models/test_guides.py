# SPDX-License-Identifier: Apache-2.0
"""Which map guides a guided upsampler: the finer one that its result joins, and it alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from components import COMPONENTS, build, call, inputs, run, upsamplers
from mmengine.registry import MODELS
from torch import nn

from mmcarafe import models
from mmcarafe.layers import UpsampleConfigError
from mmcarafe.selecting.select_upsample import SelectUpsample, Step

GUIDED = [name for name in COMPONENTS if getattr(models, name).guide]
every_guided = pytest.mark.parametrize("name", GUIDED)
ODD = ((25, 14), (13, 7))


class Recording(nn.Module):
    """Upsamples as nearest does, scaled by its weight, and keeps the guides that it is given."""

    guided = True

    def __init__(self, channels, scale_factor, guide_channels):
        super().__init__()
        self.scale, self.guide_channels = scale_factor, guide_channels
        self.weight = nn.Parameter(torch.ones(1))
        self.guides = []

    def forward(self, x, guide):
        assert guide.shape[1] == self.guide_channels
        assert tuple(guide.shape[2:]) == tuple(self.scale * n for n in x.shape[2:])
        self.guides.append(guide)
        return self.weight * F.interpolate(x, scale_factor=self.scale) + 0 * guide.sum()


def outputs_of(module):
    """A list that gets what a module returns."""
    kept = []
    module.register_forward_hook(lambda module, args, output: kept.append(output))
    return kept


def fpn(kind=Recording, neck=models.FPN, **options):
    return neck(in_channels=[4, 8, 12], out_channels=4, num_outs=3, upsample_cfg=dict(type=kind), **options)


@pytest.mark.parametrize("neck", [models.FPN, models.FPN_DropBlock, models.PAFPN, models.FPN_CARAFE])
def test_in_an_fpn_it_is_the_lateral_below_itself(neck):
    module = fpn(neck=neck)
    laterals = [outputs_of(lateral) for lateral in module.lateral_convs]
    module(inputs("FPN"))
    assert len(module.upsample_modules) == 2
    for i, upsample in enumerate(module.upsample_modules):
        assert upsample.guides == laterals[i], "the same object, before anything is added to it"


@pytest.mark.parametrize("name", ["YOLOXPAFPN", "CSPNeXtPAFPN", "YOLOV3Neck", "BFP", "HRFPN"])
def test_elsewhere_it_is_the_input_that_is_joined(name):
    _, part = build(name, upsample_cfg=dict(type=Recording))
    maps = inputs(name)
    call(part, maps)
    joined = {
        "YOLOXPAFPN": {0: 0, 1: 1},
        "CSPNeXtPAFPN": {0: 0, 1: 1},
        "YOLOV3Neck": {0: 1, 1: 0},
        "BFP": {0: 1, 1: 1, 2: 0},
        "HRFPN": {0: 0, 1: 0, 2: 0},
    }[name]
    names = {id(x): level for level, x in enumerate(maps)}
    order = list(part.upsample_modules)
    if name.endswith("PAFPN"):
        order = order[: len(joined)]
    assert {i: [names[id(g)] for g in m.guides] for i, m in enumerate(order)} == {
        i: [level] for i, level in joined.items()
    }


@every_guided
def test_every_step_of_a_component_with_a_guide_has_one_and_gives_it_gradients(name):
    _, part = build(name, upsample_cfg=dict(type=Recording))
    steps = [step for m in part.modules() if isinstance(m, SelectUpsample) for step in m.upsample_steps()]
    assert all(step is None or step.guide is not None for step in steps)
    outputs, gradients = run(name, part)
    passes = getattr(part, "rfp_steps", 1)
    assert all(len(upsample.guides) == passes for upsample in upsamplers(part))
    _, nearest = build(name, upsample_cfg=dict(type="nearest"))
    expected_outputs, expected_gradients = run(name, nearest)
    torch.testing.assert_close(outputs, expected_outputs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(set(COMPONENTS) - set(GUIDED)))
def test_no_step_of_the_others_has_one(name):
    _, part = build(name, upsample_cfg=dict(type="CARAFE"))
    steps = [step for m in part.modules() if isinstance(m, SelectUpsample) for step in m.upsample_steps()]
    assert all(step is None or step.guide is None for step in steps)


@pytest.mark.parametrize("neck", [models.FPN, models.FPN_CARAFE])
def test_an_odd_lateral_is_padded_with_its_border(neck):
    module = neck([4, 8], 4, 2, upsample_cfg=dict(type=Recording))
    laterals = outputs_of(module.lateral_convs[0])
    finest, _ = module([torch.randn(1, c, *size) for c, size in zip((4, 8), ODD, strict=True)])
    ((guide,),) = [m.guides for m in module.upsample_modules]
    assert finest.shape == (1, 4, 25, 14)
    assert guide[:, :, :25].equal(laterals[0])
    assert guide[:, :, 25:].equal(laterals[0][:, :, -1:])


@pytest.mark.parametrize("neck", [models.FPN, models.FPN_CARAFE])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_kept_after_forward(neck, fails):
    module = fpn("SAPA", neck)
    maps = inputs("FPN")
    if fails:
        with pytest.raises((RuntimeError, ValueError)):
            module([*maps[:2], maps[2][..., :1]])
    module(maps)
    hooks = list(module._guides.values() if isinstance(module._guides, dict) else module._guides)
    assert len(hooks) == 2
    assert not any(hook.outputs for hook in hooks)
    module.lateral_convs[0](maps[0])
    assert not any(hook.outputs for hook in hooks), "hooks are active in forward only"


def test_an_unguided_type_adds_no_hooks():
    assert not any(m._forward_hooks for m in fpn("CARAFE").modules())


def test_levels_of_one_size_need_no_guide():
    module = fpn("SAPA")
    maps = [torch.randn(1, c, 8, 6) for c in (4, 8, 12)]
    sum(level.sum() for level in module(maps)).backward()
    assert all(p.grad.eq(0).all() for p in module.upsample_modules.parameters())


def test_compiled_and_exported_without_graph_break():
    torch.compiler.reset()
    module, maps = fpn("SAPA").eval(), inputs("FPN")
    expected = module(maps)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    exported = torch.export.export(module, (maps,)).module()
    for program in (compiled, exported):
        for actual, level in zip(program(maps), expected, strict=True):
            torch.testing.assert_close(actual, level)


def test_a_gate_that_cannot_mix_says_what_to_do():
    with pytest.raises(UpsampleConfigError, match=r"expected a guide of \d+ channels, .* gate=False"):
        build("HRFPN", upsample_cfg=dict(type="FADE"))


def test_guide_channels_of_a_step():
    class Kind(Recording):
        pass

    assert Step(0, 8, 2, "lateral").build(dict(type=Kind), "x", MODELS).guide_channels == 8
    assert Step(0, 8, 2, 0, 4).build(dict(type=Kind), "x", MODELS).guide_channels == 4


@pytest.mark.parametrize("neck", [models.FPN, models.FPN_CARAFE])
def test_each_thread_has_its_own_guides(neck):
    """Of two calls at once, the one that starts first goes on when the other has passed its laterals."""
    module = fpn("SAPA", neck).eval()
    first, second = inputs("FPN"), [2 * x for x in inputs("FPN")]
    barrier = threading.Barrier(2, timeout=60)

    def meet(*_):
        barrier.wait()

    with torch.no_grad():
        expected = [module(first), module(second)]
        module.lateral_convs[-1].register_forward_hook(meet)
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(torch.no_grad()(module), (first, second)))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("neck", [models.FPN, models.FPN_CARAFE])
def test_a_compiled_part_of_an_eager_neck_guides_too(neck):
    module, maps = fpn("SAPA", neck).eval(), inputs("FPN")
    expected = module(maps)
    torch.compiler.reset()
    for lateral in module.lateral_convs:
        lateral.compile(backend="eager")
    torch.testing.assert_close(module(maps), expected)
