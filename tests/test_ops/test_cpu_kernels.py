# SPDX-License-Identifier: Apache-2.0
"""Every compiled kernel this processor can run, against the reference."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st
from sweep import Ops, check, sweep

from mmcarafe.ops import carafe, implementations, reference, use_implementation
from mmcarafe.ops.carafe_downsample import DOWNSAMPLE_KERNELS

COMPILED = [name for name in implementations("cpu") if name != "reference"]
OPS = torch.ops.mmcarafe
ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(os.environ.get("MMCARAFE_CPU") == "reference", reason="the kernels are switched off")
def test_the_kernels_are_built():
    """These tests come with a compiler; without the kernels they would only test the fallback."""
    assert "baseline" in COMPILED


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", COMPILED)
def test_sweep_equals_the_reference(name, threads):
    def test(z):
        threads(z["threads"])
        with use_implementation("cpu", name):
            check(z, Ops(carafe, OPS.carafe_grad_features, OPS.carafe_grad_masks))

    sweep(test, examples=60, threads=st.sampled_from([1, 2, 4]))


@pytest.mark.parametrize("name", COMPILED)
def test_sweep_of_downsampling_equals_its_definition(name, threads):
    def test(z):
        threads(z["threads"])
        with use_implementation("cpu", name):
            check(
                z,
                Ops(
                    OPS.carafe_downsample,
                    OPS.carafe_downsample_grad_features,
                    OPS.carafe_downsample_grad_masks,
                ),
                expected=Ops(*DOWNSAMPLE_KERNELS.values()),
                downsample=True,
            )

    sweep(test, examples=40, threads=st.sampled_from([1, 2, 4]))


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("k", [3, 5])
def test_channels_last_maps_are_downsampled_in_stripes(name, k):
    """Of 256 channels a stripe has 24 or 40 pixels, so that the rows here have two or three."""
    features = torch.randn(2, 256, 8, 130).contiguous(memory_format=torch.channels_last)
    masks, grad = (
        t.contiguous(memory_format=torch.channels_last)
        for t in (torch.randn(2, k * k, 4, 65), torch.randn(2, 256, 4, 65))
    )
    for op, first, second in (
        ("carafe_downsample", features, masks),
        ("carafe_downsample_grad_features", grad, masks),
        ("carafe_downsample_grad_masks", grad, features),
    ):
        with use_implementation("cpu", name):
            out = getattr(OPS, op)(first, second, k, 1, 2)
        torch.testing.assert_close(out, DOWNSAMPLE_KERNELS[op](first, second, k, 1, 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", COMPILED)
def test_same_bits_whatever_the_number_of_threads(name, threads):
    x, m, grad = torch.randn(2, 130, 19, 21), torch.randn(2, 25, 38, 42), torch.randn(2, 130, 38, 42)
    small_m = torch.randn(2, 25, 19, 21)
    results = []
    for count in (1, 2, 4):
        threads(count)
        with use_implementation("cpu", name):
            results.append(
                (
                    carafe(x, m, 5, 1, 2),
                    OPS.carafe_grad_features(grad, m, 5, 1, 2),
                    OPS.carafe_grad_masks(grad, x, 5, 1, 2),
                    OPS.carafe_downsample(grad, small_m, 5, 1, 2),
                    OPS.carafe_downsample_grad_features(x, small_m, 5, 1, 2),
                    OPS.carafe_downsample_grad_masks(x, grad, 5, 1, 2),
                )
            )
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_inf_spread_as_in_the_reference(name, value):
    x, m = torch.randn(1, 5, 9, 20), torch.randn(1, 25, 18, 40)
    x[0, 2, 4, 10] = value
    with use_implementation("cpu", name):
        ours = carafe(x, m, 5, 1, 2)
    theirs = reference.carafe(x, m, 5, 1, 2)
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours.isfinite(), theirs.isfinite())
    assert not theirs.isfinite().all()


def test_unknown_implementation_is_named():
    with (
        pytest.raises(ValueError, match=r"expected one of .*reference, got 'sse9'"),
        use_implementation("cpu", "sse9"),
    ):
        pass


def test_implementation_is_restored_after_an_error():
    x, m = torch.randn(1, 4, 6, 6), torch.randn(1, 9, 12, 12)
    before = carafe(x, m, 3, 1, 2)
    for name in implementations("cpu"):
        with pytest.raises(ZeroDivisionError), use_implementation("cpu", name):
            raise ZeroDivisionError
    assert torch.equal(carafe(x, m, 3, 1, 2), before)


def python(code: str, **env: str) -> subprocess.CompletedProcess:
    """Run code in a process where nothing but ``env`` chooses the implementation."""
    inherited = {name: value for name, value in os.environ.items() if name != "MMCARAFE_CPU"}
    return subprocess.run(
        [sys.executable, "-c", code], env={**inherited, **env}, capture_output=True, text=True, check=True
    )


RUN = (
    "import torch, mmcarafe.ops as o; print(o.implementations('cpu')); "
    "print(o.carafe(torch.ones(1, 2, 3, 3), torch.ones(1, 1, 6, 6), 1, 1, 2).sum())"
)


def test_without_the_extension_the_reference_runs_and_one_warning_says_how_to_build():
    result = python("import sys; sys.modules['mmcarafe._C'] = None; " + RUN)
    assert "['reference']" in result.stdout and "tensor(72.)" in result.stdout
    assert result.stderr.count("compiled CPU kernels are missing") == 1
    assert "pip install -e . --no-build-isolation" in result.stderr


def test_environment_variable_chooses_the_implementation():
    result = python(RUN, MMCARAFE_CPU="reference")
    assert "['reference']" in result.stdout and result.stderr == ""
    check = "import torch, mmcarafe; print(torch.ops.mmcarafe._use_variant('baseline'))"
    assert python(check, MMCARAFE_CPU="baseline").stdout.strip() == "baseline"


@pytest.mark.slow
@pytest.mark.skipif(not COMPILED, reason="the kernels are switched off")
def test_sanitizers_find_nothing_in_the_kernels():
    """With loops in C++ in place of torch, which the address sanitizer cannot be loaded beside; in stripes of
    few pixels."""
    flags = [
        "-O0",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-DMMCARAFE_STRIPE_BYTES=2000",
    ]
    result = subprocess.run(
        ["bash", ROOT / "tools/misc/check_kernels.sh", *flags],
        env={**os.environ, "PYTHON": sys.executable, "VARIANT": COMPILED[0]},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "384 of 384 calls agree" in result.stdout
