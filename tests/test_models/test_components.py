# SPDX-License-Identifier: Apache-2.0
"""What every neck and head with selectable upsamplers keeps of mmdet's, and what it adds."""

import inspect
import re

import pytest
import torch
from components import (
    COMPONENTS,
    EVEN,
    ODD,
    arguments,
    build,
    call,
    every_component,
    flatten,
    inputs,
    run,
    upsamplers,
)
from interpolations import Record
from samples import assert_close

from mmcarafe import models
from mmcarafe.layers import CARAFE, TYPES, UpsampleConfigError
from mmcarafe.selecting.select_upsample import SelectUpsample

every_type = pytest.mark.parametrize("kind", TYPES)
UNGATED = ("HRFPN", "YOLOV3Neck")  # a gate needs a guide of as many channels
takes_odd_sizes = pytest.mark.parametrize("name", [name for name, c in COMPONENTS.items() if c.odd])


@every_component
def test_forward_takes_mmdets_parameter_names(name):
    _, theirs = build(name, COMPONENTS[name].package)
    for options in ({}, dict(upsample_cfg=dict(type="nearest"))):
        _, ours = build(name, **options)
        names = list(inspect.signature(theirs.forward).parameters)
        assert list(inspect.signature(ours.forward).parameters) == names
        if len(names) == 1:
            ours(**{names[0]: arguments(ours, inputs(name))[0]})


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
    if TYPES[kind].guided and not getattr(models, name).guide:
        with pytest.raises(
            UpsampleConfigError, match=f"({name}|CondInst) does not have; types that work there"
        ):
            build(name, upsample_cfg=dict(type=kind))
        return
    cfg = dict(type=kind, gate=False) if kind == "FADE" and name in UNGATED else dict(type=kind)
    _, theirs = build(name, component.package)
    _, ours = build(name, upsample_cfg=cfg)
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


@every_component
def test_the_steps_are_mmdets_interpolations(name):
    _, theirs = build(name, COMPONENTS[name].package)
    _, ours = build(name, upsample_cfg=dict(type="CARAFE"))
    with Record() as record:
        call(theirs, inputs(name))
    parts = [m for m in ours.modules() if isinstance(m, SelectUpsample)]
    steps = [s and s[1:] for m in parts for s in m.steps_of(inputs(name))]
    if not parts:  # does not go by steps
        steps = [(m.channels, m.scale_factor) for m in ours.upsample_modules]
    if name in ("CondInstMaskHead", "BoxInstMaskHead"):
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
@pytest.mark.parametrize("kind", ["nearest", "CARAFE", "SAPA"])
def test_odd_sizes_are_cropped(name, kind):
    if TYPES[kind].guided and not getattr(models, name).guide:
        return
    _, ours = build(name, upsample_cfg=dict(type=kind))
    _, theirs = build(name, COMPONENTS[name].package)
    maps = inputs(name, ODD)
    assert [o.shape for o in call(ours, maps)] == [o.shape for o in call(theirs, maps)]


@takes_odd_sizes
@pytest.mark.parametrize("same", [2, 3])
def test_levels_of_one_size_are_as_in_mmdet_or_refused(name, same):
    """Backbones with a dilated stage have them."""
    sizes = EVEN[:same] + EVEN[same - 1 : -1]
    kind = COMPONENTS[name].same
    halving = ("PAFPN", "DyHead", "RFP")  # on the way back, by a convolution, in the backbone that it repeats
    if kind is None or len(COMPONENTS[name].channels) < same + 1 or name in halving:
        return  # mmdet's own mixes two kinds, has no such level, or takes none
    _, theirs = build(name, COMPONENTS[name].package)
    _, ours = build(name, upsample_cfg=kind)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    try:
        outputs = run(name, ours, sizes)
    except ValueError as error:
        assert re.search(r"a level of \d+ x \d+ cannot be upsampled by \d to \d+ x \d+", str(error))  # noqa: PT017
        return
    for actual, expected in zip(outputs, run(name, theirs, sizes), strict=True):
        for a, e in zip(actual, expected, strict=True):
            assert (a is None and e is None) or assert_close(a, e, rtol=1e-4, atol=1e-4) is None


class Doubled:
    """A user's mixin with a ``forward`` of its own, which calls its parent's."""

    def forward(self, *args, **kwargs):
        return [2 * out for out in flatten(super().forward(*args, **kwargs))]


@pytest.mark.parametrize("kind", [None, "nearest", "CARAFE"])
@every_component
def test_the_forward_of_a_subclass_does_what_it_says(name, kind):
    options = dict(upsample_cfg=dict(type=kind)) if kind else {}
    _, part = build(name, **options)
    torch.manual_seed(2)
    expected = [2 * out for out in call(part, inputs(name))]
    part.__class__ = type("Mine", (Doubled, type(part)), {})
    torch.manual_seed(2)
    for actual, value in zip(call(part, inputs(name)), expected, strict=True):
        assert actual.equal(value)


@every_component
def test_init_weights_leaves_the_encoders_near_zero(name):
    module, part = build(name, upsample_cfg=dict(type="CARAFE", compressed_channels=16))
    module.init_weights()
    for upsample in upsamplers(part):
        assert type(upsample) is CARAFE
        assert upsample.content_encoder.weight.std().item() == pytest.approx(0.001, rel=0.1)
        assert upsample.content_encoder.bias.eq(0).all()
        assert upsample.channel_compressor.weight.std() > 0.05


# their init_weights in mmdet does not look at init_cfg, or paints over what it loads
PAINTED = (
    "RTMDetInsHead", "RTMDetInsSepBNHead", "CTResNetNeck", "HourglassNet", "RFP",
    "PixelDecoder", "TransformerEncoderPixelDecoder", "MSDeformAttnPixelDecoder",
)  # fmt: skip


@pytest.mark.parametrize("name", [name for name in COMPONENTS if name not in PAINTED])
def test_init_weights_leaves_pretrained_and_initialised_weights_alone(name, tmp_path):
    module, part = build(name, upsample_cfg=dict(type="CARAFE", compressed_channels=4))
    for upsample in upsamplers(part):
        torch.nn.init.constant_(upsample.content_encoder.weight, 3)
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    module.init_cfg = dict(type="Pretrained", checkpoint=str(tmp_path / "weights.pth"))
    for _ in range(2):
        module.init_weights()
        assert all(m.content_encoder.weight.eq(3).all() for m in upsamplers(part))
