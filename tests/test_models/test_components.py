# SPDX-License-Identifier: Apache-2.0
"""What every neck and head with selectable upsamplers keeps of mmdet's, and what it adds."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from components import COMPONENTS, EVEN, ODD, call, pyramid
from mmdet.registry import MODELS
from samples import assert_close
from torch import nn
from torch.overrides import TorchFunctionMode

from mmcarafe import models
from mmcarafe.layers import CARAFE, UpsampleConfigError
from mmcarafe.models.upsample import SelectUpsample

TYPES = ("nearest", "bilinear", "deconv", "pixel_shuffle", "carafe", "CARAFE")
every_component = pytest.mark.parametrize("name", COMPONENTS)
every_type = pytest.mark.parametrize("kind", TYPES)
takes_odd_sizes = pytest.mark.parametrize("name", [name for name, c in COMPONENTS.items() if c.odd])


def build(name, package=models, **upsample):
    """The component and the part of it that upsamples, from the same random numbers."""
    torch.manual_seed(0)
    module = COMPONENTS[name].build(name, package, **upsample)
    return module, COMPONENTS[name].part(module)


def inputs(name, sizes=EVEN, **options):
    torch.manual_seed(1)
    return pyramid(COMPONENTS[name].channels, sizes, **options)


def run(name, module, sizes=EVEN):
    """Outputs, and gradients of the inputs."""
    maps = inputs(name, sizes, requires_grad=True)
    torch.manual_seed(2)
    outputs = call(module, maps)
    gradients = torch.autograd.grad(sum(o.square().sum() for o in outputs), maps, allow_unused=True)
    return outputs, gradients


@every_component
def test_forward_takes_mmdets_parameter_names(name):
    _, theirs = build(name, COMPONENTS[name].package)
    for options in ({}, dict(upsample_cfg=dict(type="nearest"))):
        _, ours = build(name, **options)
        names = list(inspect.signature(theirs.forward).parameters)
        assert list(inspect.signature(ours.forward).parameters) == names
        if len(names) == 1:
            ours(**{names[0]: inputs(name)})


@every_component
def test_without_a_type_it_is_mmdets_bit_for_bit(name):
    results = []
    for package in (models, COMPONENTS[name].package):
        module, part = build(name, package)
        constructed = [(key, value.clone()) for key, value in module.state_dict().items()]
        module.init_weights()
        results.append((constructed, list(module.state_dict().items()), *run(name, part)))
    for ours, theirs in zip(*results, strict=True):
        assert len(ours) == len(theirs)
        for actual, expected in zip(ours, theirs, strict=True):
            if isinstance(expected, tuple):
                assert actual[0] == expected[0]
                actual, expected = actual[1], expected[1]
            assert (actual is None and expected is None) or actual.equal(expected)


@every_type
@every_component
def test_output_sizes_and_gradients_of_every_parameter(name, kind):
    component = COMPONENTS[name]
    _, theirs = build(name, component.package)
    _, ours = build(name, upsample_cfg=dict(type=kind))
    maps = inputs(name)
    outputs = call(ours, maps)
    assert [o.shape for o in outputs] == [o.shape for o in call(theirs, maps)]
    sum(o.square().sum() for o in outputs).backward()
    without = {parameter for parameter, value in ours.named_parameters() if value.grad is None}
    assert not without - unused_by_mmdet(name), "no parameter is left unused"
    added = upsamplers(ours)
    assert len(added) == component.count, "each step has its own"
    for module in added:
        for parameter in module.parameters():
            assert parameter.grad.abs().max() > 0


def upsamplers(part):
    """All modules in any ``upsample_modules``; FPG has one list in each transition."""
    found = [m for owner in part.modules() for m in getattr(owner, "upsample_modules", ())]
    return list(dict.fromkeys(found))


def unused_by_mmdet(name):
    """Parameters that mmdet's own component does not use in forward, or not in what is looked at here."""
    _, part = build(name, COMPONENTS[name].package)
    sum(o.square().sum() for o in call(part, inputs(name))).backward()
    return {parameter for parameter, value in part.named_parameters() if value.grad is None}


@pytest.mark.parametrize("name", [name for name, c in COMPONENTS.items() if c.same])
def test_mmdets_interpolation_by_type_is_mmdets(name):
    """Proof that every step gets the map it should, in the right order."""
    _, theirs = build(name, COMPONENTS[name].package)
    _, ours = build(name, upsample_cfg=COMPONENTS[name].same)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for actual, expected in zip(run(name, ours), run(name, theirs), strict=True):
        for a, e in zip(actual, expected, strict=True):
            assert (a is None and e is None) or assert_close(a, e, rtol=1e-4, atol=1e-4) is None


class Record(TorchFunctionMode):
    """Notes channels and sizes of each interpolation."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is F.interpolate:
            self.calls.append((args[0].shape[1], args[0].shape[2:], out.shape[2:]))
        return out


@every_component
def test_the_steps_are_mmdets_interpolations(name):
    _, theirs = build(name, COMPONENTS[name].package)
    _, ours = build(name, upsample_cfg=dict(type="CARAFE"))
    with Record() as record:
        call(theirs, inputs(name))
    steps = [step for m in ours.modules() if isinstance(m, SelectUpsample) for step in m.upsample_steps()]
    if name in ("CondInstMaskHead", "BoxInstMaskHead"):  # does not go by steps
        steps = [(m.channels, m.scale_factor) for m in ours.upsample_modules]
        # aligned_bilinear pads its input by one pixel
        record.calls = [(c, [n - 1 for n in source], [n - 1 for n in out]) for c, source, out in record.calls]
    assert len(steps) == len(record.calls)
    if name == "FPG":  # one step in each of many transitions, not in the order of calls
        steps, record.calls = sorted(steps), sorted(record.calls)
    for step, (channels, source, out) in zip(steps, record.calls, strict=True):
        if step is None:
            assert out[0] <= source[0] and out[1] <= source[1]
        else:
            assert step[0] == channels
            assert [n * step[1] for n in source] == list(out)


@takes_odd_sizes
@pytest.mark.parametrize("kind", ["nearest", "CARAFE"])
def test_odd_sizes_are_cropped(name, kind):
    _, ours = build(name, upsample_cfg=dict(type=kind))
    _, theirs = build(name, COMPONENTS[name].package)
    maps = inputs(name, ODD)
    assert [o.shape for o in call(ours, maps)] == [o.shape for o in call(theirs, maps)]


@every_component
def test_init_weights_leaves_the_encoders_near_zero(name):
    module, part = build(name, upsample_cfg=dict(type="CARAFE", compressed_channels=16))
    module.init_weights()
    for upsample in upsamplers(part):
        assert type(upsample) is CARAFE
        assert upsample.content_encoder.weight.std().item() == pytest.approx(0.001, rel=0.1)
        assert upsample.content_encoder.bias.eq(0).all()
        assert upsample.channel_compressor.weight.std() > 0.05


# RTMDet's init_weights does not look at init_cfg
@pytest.mark.parametrize("name", [name for name in COMPONENTS if not name.startswith("RTMDet")])
def test_init_weights_leaves_pretrained_and_initialised_weights_alone(name, tmp_path):
    module, part = build(name, upsample_cfg=dict(type="CARAFE", compressed_channels=4))
    for upsample in upsamplers(part):
        torch.nn.init.constant_(upsample.content_encoder.weight, 3)
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    module.init_cfg = dict(type="Pretrained", checkpoint=str(tmp_path / "weights.pth"))
    for _ in range(2):
        module.init_weights()
        assert all(m.content_encoder.weight.eq(3).all() for m in upsamplers(part))


@every_component
def test_options_reach_the_upsamplers(name):
    _, part = build(name, upsample_cfg=dict(type="CARAFE", up_kernel=3, up_group=2, compressed_channels=4))
    assert {(m.up_kernel, m.up_group, m.compressed_channels) for m in upsamplers(part)} == {(3, 2, 4)}


@every_component
@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (dict(type="carefe"), "did you mean 'carafe'"),
        (dict(type="CARAFE", up_krenel=3), "unexpected keyword argument 'up_krenel'"),
        (dict(type="CARAFE", scale_factor=3), "leave scale_factor out"),
    ],
    ids=str,
)
def test_a_wrong_config_is_refused(name, cfg, message):
    with pytest.raises(UpsampleConfigError, match=message):
        build(name, upsample_cfg=cfg)


OPEN = ("FPN", "FPN_DropBlock", "YOLOXPAFPN", "CSPNeXtPAFPN")


@pytest.mark.parametrize("name", OPEN)
def test_an_interpolation_that_mmdet_leaves_open_is_mmdets(name):
    cfg = dict(mode="bilinear") if name.startswith("FPN") else dict(scale_factor=2, mode="bilinear")
    outputs = []
    for package in (models, COMPONENTS[name].package):
        _, part = build(name, package, upsample_cfg=cfg)
        outputs.append(run(name, part)[0])
    for actual, expected in zip(*outputs, strict=True):
        assert actual.equal(expected)


@pytest.mark.parametrize("name", sorted(set(COMPONENTS) - set(OPEN)))
def test_an_interpolation_that_mmdet_fixes_cannot_be_configured(name):
    with pytest.raises(UpsampleConfigError, match="expected an upsample_cfg with a type"):
        build(name, upsample_cfg=dict(mode="bicubic"))


@pytest.mark.parametrize("name", ["YOLOXPAFPN", "CSPNeXtPAFPN"])
def test_the_interpolation_of_a_base_config_may_stay_beside_a_type(name):
    """A child config's dict(type="CARAFE") is merged into YOLOX's upsample_cfg."""
    _, part = build(name, upsample_cfg=dict(scale_factor=2, mode="nearest", type="CARAFE"))
    assert [type(m) for m in upsamplers(part)] == [CARAFE, CARAFE]
    _, part = build(name, upsample_cfg=dict(scale_factor=2, mode="nearest", type="bilinear"))
    assert {m.mode for m in upsamplers(part)} == {"bilinear"}


def test_fpg_without_a_transition_that_enlarges_refuses_an_upsampler():
    options = {**COMPONENTS["FPG"].options, "across_down_trans": None}
    with pytest.raises(UpsampleConfigError, match="interpolation_conv"):
        models.FPG(**options, upsample_cfg=dict(type="CARAFE"))


@every_component
def test_a_registered_upsampler_can_be_selected(name):
    class Repeat(nn.Module):
        def __init__(self, channels, scale_factor, mode="nearest"):
            super().__init__()
            self.channels, self.scale_factor = channels, scale_factor

        def forward(self, x):
            assert x.shape[1] == self.channels
            return F.interpolate(x, scale_factor=self.scale_factor)

    MODELS.register_module(name="RepeatInTest", module=Repeat)
    try:
        _, ours = build(name, upsample_cfg=dict(type="RepeatInTest"))
    finally:
        del MODELS.module_dict["RepeatInTest"]
    _, nearest = build(name, upsample_cfg=dict(type="nearest"))
    maps = inputs(name)
    for actual, expected in zip(call(ours.eval(), maps), call(nearest.eval(), maps), strict=True):
        assert_close(actual, expected)


@every_component
def test_the_registry_has_ours_and_mmdets_class_is_as_it_was(name):
    ours, theirs = getattr(models, name), getattr(COMPONENTS[name].package, name)
    for registered in (name, f"mmdet.{name}"):
        assert MODELS.get(registered) is ours
    assert theirs is not ours
    assert theirs in ours.__mro__
    assert theirs.__module__.startswith("mmdet.")


def test_every_component_is_listed():
    mask_heads = {"FCNMaskHead", "HTCMaskHead", "SCNetMaskHead", "DynamicMaskHead"}
    elsewhere = {"CARAFE", "FPN_CARAFE", "MaskFormerHead"} | mask_heads  # have tests of their own
    assert set(models.__all__) == set(COMPONENTS) | elsewhere


def test_no_subclass_of_mmdets_is_forgotten():
    """One that mmdet derives from a class taken over would ignore upsample_cfg, or stumble over it."""
    ours = [getattr(models, name) for name in models.__all__ if name != "CARAFE"]
    parents = {c for kind in ours for c in kind.__mro__ if c.__name__ == kind.__name__} - set(ours)
    forgotten = {
        name
        for name, kind in MODELS.module_dict.items()
        if kind not in ours and kind.__mro__[1:] and parents & set(kind.__mro__[1:])
    }
    assert forgotten == {
        "RFP",  # listed in the README
        "CoarseMaskHead",  # does not upsample
        "Mask2FormerHead",  # its pixel decoder upsamples
        "Mask2FormerTrackHead",
    }
