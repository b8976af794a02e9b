# SPDX-License-Identifier: Apache-2.0
"""How the tools end: mistakes in a sentence, anything else with its trace."""

import re

import pytest
from mmdet.registry import MODELS

from mmcarafe.utils.cli import run


def test_a_class_that_is_not_registered():
    with pytest.raises(SystemExit) as ended:
        run(lambda: MODELS.build(dict(type="NobodysHead")))
    message = str(ended.value)
    assert re.search(r"NobodysHead is not in the mmdet::model registry: check its spelling", message)
    assert "custom_imports replaces that of its _base_" in message
    assert "http" not in message


@pytest.mark.parametrize("error", [KeyError("a"), KeyError(), KeyError(3)], ids=repr)
def test_any_other_key_error_keeps_its_trace(error):
    def main():
        raise error

    with pytest.raises(KeyError):
        run(main)
