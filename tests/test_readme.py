# SPDX-License-Identifier: Apache-2.0
"""The pages' tables are those that the tool makes of the classes and configs."""

from pathlib import Path

import model_tables
import pytest
import torch
from torch import nn

from mmcarafe import models
from mmcarafe.errors import InputError
from mmcarafe.utils.markdown import split_section, write_section

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "name",
    # counting the operations of every config takes long
    [
        pytest.param(name, marks=pytest.mark.slow if name == "configs" else ())
        for name in model_tables.SECTIONS
    ],
)
def test_readme_section_is_up_to_date(name):
    if name == "segmentation":
        pytest.importorskip("mmseg", reason="mmsegmentation, an optional requirement, is not installed")
    page, section = model_tables.SECTIONS[name]
    _, inside, _ = split_section(ROOT / "docs" / page, name)
    # with deterministic algorithms torch takes an interpolation apart, and the counter does not know it
    torch.use_deterministic_algorithms(False)
    assert inside.strip() == section(), "run python tools/misc/model_tables.py --pages docs"


def test_every_component_says_what_is_replaced():
    rows = model_tables.components()
    assert all(replaces for _, replaces, _ in rows)
    names = {name.strip("`") for names, *_ in rows for name in names.split(", ")}
    assert names == set(models.__all__) - {"CARAFE", "ResNet"}
    takes_downsample_cfg = {name.strip("`") for name, _ in model_tables.downsampling()}
    assert takes_downsample_cfg > {"FPN", "ResNet"} and takes_downsample_cfg <= set(models.__all__)


def test_flops_added_to_an_fpn_are_the_papers_formula():
    """199,496 for each source pixel of 256 channels: P3, P4 and P5 of an 800 x 1344 image."""
    cfg = model_tables.CONFIGS / "mask-rcnn_r50_fpn-carafe_neck-only_1x_coco.py"
    ours = model_tables.build(model_tables.Config.fromfile(cfg))
    theirs = model_tables.build(model_tables.get_config(model_tables.base_of(cfg)))
    pixels = 100 * 168 + 50 * 84 + 25 * 42
    added = model_tables.flops(ours, ["neck"]) - model_tables.flops(theirs, ["neck"])
    # torch does not count the biases of convolutions: 2 * 64 and 2 * 100 less
    assert added == pixels * (199_496 - 2 * 64 - 2 * 100)
    assert model_tables.parameters(ours) - model_tables.parameters(theirs) == 3 * 74_148


def test_where_names_the_components_of_a_config():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.neck = models.FPN([4, 8], 4, 2, upsample_cfg=dict(type="CARAFE"))
            self.head = models.FCNMaskHead(1, in_channels=4, conv_out_channels=4, num_classes=2)

    with torch.device("meta"):
        assert model_tables.where(Model()) == ["neck"]


def test_a_file_without_the_section_is_left_alone(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("<!-- configs: begin -->\nold\n<!-- configs: end -->\nbelow\n")
    write_section(path, "configs", "new")
    assert path.read_text() == "<!-- configs: begin -->\nnew\n<!-- configs: end -->\nbelow\n"
    with pytest.raises(InputError, match="components: begin"):
        write_section(path, "components", "new")
    with pytest.raises(InputError, match="does not exist"):
        write_section(tmp_path / "no.md", "components", "new")
