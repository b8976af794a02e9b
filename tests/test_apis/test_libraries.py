# SPDX-License-Identifier: Apache-2.0
"""The default_scope of a config says which library it is of; the other need not be installed."""

import subprocess
import sys

import pytest
from mmengine.config import Config

from mmcarafe.apis import detection
from mmcarafe.apis.libraries import library_of

WITHOUT_MMDET = """
import sys
sys.modules["mmdet"] = None  # which importing refuses
import mmcarafe.analysis.flops, mmcarafe.apis.images, mmcarafe.apis.training, mmcarafe.visualization
import mmcarafe.comparison.worker, mmcarafe.comparison.pictures, mmcarafe.comparison.boundary_f_metric
import mmcarafe.deploy.exporting, mmcarafe.deploy.verifying
from mmengine.config import Config
from mmcarafe.apis.libraries import library_of
from mmcarafe.errors import InputError
print(library_of(Config(dict(default_scope="mmseg"))).__name__)
try:
    library_of(Config(dict(default_scope="mmdet")))
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("scope", ["mmdet", "their_project", None])
def test_a_scope_of_a_project_is_served_as_mmdet(scope):
    assert library_of(Config(dict(default_scope=scope))) is detection


def test_both_have_the_same_names():
    segmentation = pytest.importorskip("mmcarafe.apis.segmentation", reason="mmsegmentation is not installed")
    assert segmentation.__all__ == detection.__all__


def test_segmentors_do_not_need_mmdet():
    pytest.importorskip("mmseg", reason="mmsegmentation, an optional requirement, is not installed")
    command = [sys.executable, "-c", WITHOUT_MMDET]
    *_, served, refused = subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert served == "mmcarafe.apis.segmentation"
    assert refused.startswith("the config is of mmdet (its default_scope), which is not all there (")
    assert refused.endswith("): pip install mmdet")
