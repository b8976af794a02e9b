# SPDX-License-Identifier: Apache-2.0
"""The examples in the docstrings of all public names run and print what they say."""

import doctest

import pytest

import mmcarafe.layers
import mmcarafe.models
import mmcarafe.ops

PUBLIC = {
    name: getattr(package, name)
    for package in (mmcarafe.ops, mmcarafe.layers, mmcarafe.models)
    for name in package.__all__
}
WITH_EXAMPLE = {name: value for name, value in PUBLIC.items() if "Example:" in value.__doc__}


@pytest.mark.parametrize(("name", "value"), WITH_EXAMPLE.items(), ids=WITH_EXAMPLE)
def test_example(name, value):
    report = []
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder(recurse=False).find(value, name, globs={}):
        runner.run(example, out=report.append)
    assert runner.summarize(verbose=False).attempted > 0
    assert report == [], "".join(report)


def test_the_main_names_have_an_example():
    assert {"carafe", "CARAFE", "build_upsample", "FPN", "FPN_CARAFE", "FCNMaskHead"} <= WITH_EXAMPLE.keys()
