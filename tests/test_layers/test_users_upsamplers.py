# SPDX-License-Identifier: Apache-2.0
"""Upsamplers of users' own: registered, given as classes, in registries of projects, and with our names."""

from functools import partial

import pytest
from mmdet import registry as mmdet_registry
from mmengine.registry import MODELS, DefaultScope, Registry
from torch import nn

from mmcarafe.layers import CARAFE, DySample, UpsampleConfigError, build_upsample


class Repeat(nn.Module):
    """An upsampler that a user might register."""

    def __init__(self, channels, scale_factor, gain=1.0):
        super().__init__()
        self.channels, self.scale, self.gain = channels, scale_factor, gain

    def forward(self, x):
        return self.gain * x.repeat_interleave(self.scale, 2).repeat_interleave(self.scale, 3)


@pytest.fixture
def registered():
    """The name under which Repeat is registered while the test runs."""
    MODELS.register_module(name="RepeatInTest", module=Repeat)
    return "RepeatInTest"


def test_a_registered_module(registered):
    upsample = build_upsample(dict(type=registered, gain=2.0), channels=8, scale_factor=3)
    assert type(upsample) is Repeat
    assert (upsample.channels, upsample.scale, upsample.gain) == (8, 3, 2.0)


def test_a_class_as_type():
    assert type(build_upsample(dict(type=Repeat), channels=8, scale_factor=2)) is Repeat


def test_a_guided_class_of_a_users_own():
    class Guided(Repeat):
        guided = True

        def __init__(self, channels, scale_factor, guide_channels):
            super().__init__(channels, scale_factor)
            self.guide_channels = guide_channels

    assert build_upsample(dict(type=Guided), 8, 2, guide_channels=4).guide_channels == 4
    with pytest.raises(UpsampleConfigError, match="this component does not have"):
        build_upsample(dict(type=Guided), 8, 2)


@pytest.fixture(params=[mmdet_registry.MODELS, MODELS], ids=["mmdet", "mmengine"])
def named_as_ours(request):
    class DySample(Repeat):
        """A user's class, registered under the name of one of ours."""

    request.param.register_module(module=DySample, force=True)
    return DySample


@pytest.mark.parametrize("given", ["DySample", "class"])
def test_a_users_class_with_the_name_of_one_of_ours(named_as_ours, given):
    with DefaultScope.overwrite_default_scope("mmdet"):
        cfg = dict(type=named_as_ours if given == "class" else given, gain=2.0)
        assert type(build_upsample(cfg, 8, 2, mmdet_registry.MODELS)) is named_as_ours
        assert type(build_upsample(dict(type=DySample), 8, 2, mmdet_registry.MODELS)) is DySample
        with pytest.raises(UpsampleConfigError, match=r"DySample.*unexpected keyword argument 'gian'"):
            build_upsample(dict(type="DySample", gian=2.0), 8, 2, mmdet_registry.MODELS)


def test_a_fault_in_a_users_class_is_raised_as_it_is():
    class Faulty(Repeat):
        def __init__(self, channels, scale_factor):
            super().__init__({1: 8}[scale_factor], scale_factor)

    with pytest.raises(KeyError):
        build_upsample(dict(type=Faulty), channels=8, scale_factor=2)


@pytest.mark.parametrize("derived", [type("Mine", (CARAFE,), {}), partial(CARAFE, up_group=1)], ids=str)
def test_a_wrong_argument_of_ours_is_named_in_what_a_user_makes_of_it(derived):
    with pytest.raises(UpsampleConfigError, match="up_kernel: expected an odd number, got 4"):
        build_upsample(dict(type=derived, up_kernel=4), channels=8, scale_factor=2)


def test_what_tells_mmengine_to_replace_a_base_configs_dict_is_left_out():
    assert type(build_upsample(dict(type="CARAFE", _delete_=True), 8, 2)) is CARAFE


@pytest.fixture
def project_registry():
    """A project's own registry, beside mmdet's, with an upsampler of its own."""
    registry = Registry("model", scope="projectintest", parent=MODELS)
    registry.register_module(name="TheirRepeat", module=Repeat)
    yield registry
    del MODELS._children["projectintest"]


@pytest.mark.parametrize(
    ("kind", "scope"), [("TheirRepeat", "projectintest"), ("projectintest.TheirRepeat", "mmdet")]
)
def test_an_upsampler_in_a_projects_own_registry(project_registry, kind, scope):
    with DefaultScope.overwrite_default_scope(scope):
        assert type(build_upsample(dict(type=kind), 8, 2, mmdet_registry.MODELS)) is Repeat
        assert type(build_upsample(dict(type="CARAFE"), 8, 2, mmdet_registry.MODELS)) is CARAFE
