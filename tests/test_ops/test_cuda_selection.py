# SPDX-License-Identifier: Apache-2.0
"""Which implementation serves a CUDA tensor; mmcv's kernels behind our ops, by a stand-in for its module."""

import logging
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from samples import TRITON_DEVICE, Downsample, Sample, assert_close, every_sample, needs_triton

from mmcarafe.ops import cuda, implementations, mmcv_backend, reference, triton_backend, use_implementation

pytestmark = pytest.mark.uses_cuda
SAMPLE = Sample(2, 4, 3, 5, k=3, groups=2, scale=2)
DOWNSAMPLE = Downsample(*SAMPLE)
DOWNSAMPLING = ("carafe_downsample", "carafe_downsample_grad_features", "carafe_downsample_grad_masks")
OPS = ("carafe", "carafe_grad_features", "carafe_grad_masks", "carafe_backward")


def call(op, sample, dtype=torch.float32, memory_format=torch.contiguous_format):
    """Arguments of an op, and what it should return."""
    tensors = sample.tensors(dtype, TRITON_DEVICE)
    features, masks, grad = (t.contiguous(memory_format=memory_format) for t in tensors)
    out, d_features, d_masks = sample.expected()
    return {
        "carafe_downsample": ((features, masks, *sample.args), (out,)),
        "carafe_downsample_grad_features": ((grad, masks, *sample.args), (d_features,)),
        "carafe_downsample_grad_masks": ((grad, features, *sample.args), (d_masks,)),
        "carafe": ((features, masks, *sample.args), (out,)),
        "carafe_grad_features": ((grad, masks, *sample.args), (d_features,)),
        "carafe_grad_masks": ((grad, features, *sample.args), (d_masks,)),
        "carafe_backward": ((grad, features, masks, *sample.args), (d_features, d_masks)),
    }[op]


class Extension:
    """mmcv's compiled module: takes what its kernels take, in their order; computes with the reference."""

    def __init__(self):
        self.calls = []

    def get_compiling_cuda_version(self):
        return "12.6"

    def carafe_forward(
        self, features, masks, rfeatures, routput, rmasks, output, kernel_size, group_size, scale_factor
    ):
        self._check(
            features, masks, output, scratch=[(rfeatures, features), (routput, output), (rmasks, masks)]
        )
        output.copy_(reference.carafe(features, masks, kernel_size, group_size, scale_factor))
        self.calls.append("forward")

    def carafe_backward(
        self,
        top_grad,
        rfeatures,
        masks,
        rtop_grad,
        rbottom_grad_hs,
        rbottom_grad,
        rmask_grad,
        bottom_grad,
        mask_grad,
        kernel_size,
        group_size,
        scale_factor,
    ):
        features = rfeatures.permute(0, 3, 1, 2)  # filled, unlike the other scratch tensors
        self._check(
            top_grad,
            masks,
            bottom_grad,
            mask_grad,
            scratch=[
                (rfeatures, bottom_grad),
                (rtop_grad, top_grad),
                (rbottom_grad_hs, top_grad),
                (rbottom_grad, bottom_grad),
                (rmask_grad, masks),
            ],
        )
        args = kernel_size, group_size, scale_factor
        bottom_grad.copy_(reference.grad_features(top_grad, masks, *args))
        mask_grad.copy_(reference.grad_masks(top_grad, features, *args))
        self.calls.append("backward")

    @staticmethod
    def _check(*tensors, scratch):
        for t, like in scratch:
            N, C, H, W = like.shape
            assert t.shape == (N, H, W, C)
        for t in (*tensors, *(t for t, _ in scratch)):
            assert t.is_contiguous() and t.dtype == torch.float32


@pytest.fixture
def mmcv(monkeypatch):
    """mmcv as if it had been built for CUDA."""
    extension = Extension()
    monkeypatch.setattr(mmcv_backend, "_extension", lambda: extension)
    return extension


@pytest.fixture
def only(monkeypatch):
    """Makes implementations other than the named ones refuse every call."""

    def leave(*names):
        for name, implementation in cuda.IMPLEMENTATIONS.items():
            refusal = implementation._replace(why_not=lambda *args, name=name: f"no {name} in this test")
            if name not in names:
                monkeypatch.setitem(cuda.IMPLEMENTATIONS, name, refusal)

    monkeypatch.setattr(cuda, "_warned", set())
    return leave


@every_sample
@pytest.mark.parametrize("op", OPS)
def test_mmcv_serves_what_it_can_and_gives_the_loops_values(op, sample, mmcv, only):
    only("mmcv", "reference")
    inputs, expected = call(op, sample)
    name = cuda.choose(op, inputs[:-3], *sample.args)
    assert name == ("mmcv" if all(t.numel() for t in inputs[:-3]) else "reference")
    mmcv.calls.clear()  # of the look whether it starts
    results = cuda.serve(op, *inputs)
    for actual, wanted in zip(results if op == "carafe_backward" else [results], expected, strict=True):
        assert_close(actual.cpu(), wanted)
    assert mmcv.calls == (["forward" if op == "carafe" else "backward"] if name == "mmcv" else [])


@pytest.mark.parametrize("dtype", mmcv_backend.DTYPES, ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(
    "implementation",
    ["mmcv", "reference", pytest.param("triton", marks=[needs_triton, pytest.mark.slow])],
)
@pytest.mark.parametrize("op", [*OPS, *DOWNSAMPLING])
def test_every_implementation_keeps_dtype_and_memory_format(op, implementation, dtype, memory_format, mmcv):
    if implementation == "triton":
        pytest.importorskip("triton")
    inputs, expected = call(op, DOWNSAMPLE if op in DOWNSAMPLING else SAMPLE, dtype, memory_format)
    with use_implementation("cuda", implementation):
        results = cuda.serve(op, *inputs)
    for actual, wanted in zip(results if op == "carafe_backward" else [results], expected, strict=True):
        assert actual.dtype == dtype
        assert actual.is_contiguous(memory_format=memory_format)
        assert_close(actual.cpu(), wanted)


def test_arguments_of_mmcvs_functions_are_those_of_the_stand_in():
    """mmcv's own functions, which pybind describes, take the same names in the same order."""
    real = pytest.importorskip("mmcv._ext")
    for name in ("carafe_forward", "carafe_backward"):
        signature = getattr(real, name).__doc__.splitlines()[0]
        code = getattr(Extension, name).__code__
        names = code.co_varnames[1 : code.co_argcount]
        assert re.findall(r"(\w+): (?:torch|typing|int)", signature) == list(names)


def test_an_mmcv_without_cuda_says_so():
    if pytest.importorskip("mmcv._ext").get_compiling_cuda_version() != "not available":
        pytest.skip("this mmcv was built for CUDA")
    features, masks, _ = SAMPLE.tensors(torch.float32)
    assert mmcv_backend.why_not("carafe", (features, masks), *SAMPLE.args) == "mmcv was built without CUDA"


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, device="meta", dtype=dtype)


LARGE = {  # op, sizes of features, k, groups; what stands in the way
    "as_large_as_mmcv_can": ("carafe", (1, 1, 4095, 4096), 5, 1, None),
    "rounded_up_to_blocks": ("carafe", (1, 1, 4095, 4097), 5, 1, "67108860 target pixels need numbers"),
    "threads": ("carafe", (1, 1, 4096, 4096), 5, 1, "67108864 target pixels need numbers"),
    "features": ("carafe", (1, 512, 1024, 1025), 1, 1, "4198400 target pixels need numbers"),
    "mask_elements": ("carafe", (8, 15, 1200, 1200), 5, 15, "46080000 target pixels need numbers"),
    "backward_at_the_limit": ("carafe_backward", (1, 16, 819, 819), 5, 1, None),
    "backward_threads": ("carafe_backward", (1, 16, 820, 820), 5, 1, "2689600 target pixels need numbers"),
    "mask_channels": ("carafe", (1, 16, 8, 8), 5, 16, "400 mask channels are more than 384"),
}


@pytest.mark.usefixtures("mmcv")
@pytest.mark.parametrize(("op", "shape", "k", "groups", "reason"), LARGE.values(), ids=LARGE)
def test_sizes_that_mmcv_cannot_address_go_elsewhere(op, shape, k, groups, reason):
    N, C, H, W = shape
    features, masks = meta(*shape), meta(N, groups * k * k, 2 * H, 2 * W)
    tensors = (features, masks) if op == "carafe" else (meta(N, C, 2 * H, 2 * W), features, masks)
    found = mmcv_backend.why_not(op, tensors, k, groups, 2)
    assert found is None if reason is None else reason in found
    assert triton_backend.why_not(op, tensors, k, groups, 2) == triton_backend.unusable(False)


@needs_triton
def test_order_of_each_dtype(mmcv):
    pytest.importorskip("triton")
    for dtype, name in (
        (torch.float32, "triton"),
        (torch.float16, "triton"),
        (torch.bfloat16, "triton"),
        (torch.float64, "reference"),
    ):
        inputs, _ = call("carafe", SAMPLE, dtype)
        assert cuda.choose("carafe", inputs[:2], *SAMPLE.args) == name


@needs_triton
def test_downsampling_is_tritons_whatever_mmcv_can(mmcv, recwarn):
    pytest.importorskip("triton")
    for op in DOWNSAMPLING:
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            inputs, _ = call(op, DOWNSAMPLE, dtype)
            chosen = cuda.choose(op, inputs[:2], *DOWNSAMPLE.args)
            assert chosen == ("reference" if dtype == torch.float64 else "triton")
    assert not recwarn


def test_downsampling_without_a_kernel_of_its_own_warns_of_nothing(only, mmcv, recwarn):
    """The upsampling ops that its reference calls say themselves what serves them."""
    inputs, _ = call("carafe_downsample", DOWNSAMPLE)
    with use_implementation("cuda", "mmcv"):
        assert cuda.choose("carafe_downsample", inputs[:2], *DOWNSAMPLE.args) == "reference"
    only("mmcv", "reference")
    assert cuda.choose("carafe_downsample", inputs[:2], *DOWNSAMPLE.args) == "reference"
    assert not recwarn


@pytest.mark.parametrize("name", implementations("cuda"))
@pytest.mark.parametrize("op", [*OPS, *DOWNSAMPLING])
def test_an_image_without_rois_is_served_whatever_was_asked_for(op, name):
    sample = (DOWNSAMPLE if op in DOWNSAMPLING else SAMPLE)._replace(N=0)
    inputs, expected = call(op, sample)
    with use_implementation("cuda", name):
        results = cuda.serve(op, *inputs)
    for actual, wanted in zip(results if op == "carafe_backward" else [results], expected, strict=True):
        assert actual.shape == wanted.shape


def test_ops_refuse_what_would_leave_their_memory():
    features, masks, grad = SAMPLE.tensors(torch.float32, TRITON_DEVICE)
    for op, tensors, message in (
        ("carafe", (features, masks[:, :9]), "sizes do not fit: masks"),
        ("carafe", (features, masks[..., :9]), "sizes do not fit: masks"),
        ("carafe", (features[:, :3], masks), "arguments do not fit"),
        ("carafe_grad_features", (grad[..., :9], masks), "sizes do not fit: grad"),
        ("carafe_grad_masks", (grad, features[..., :4]), "sizes do not fit: features"),
        ("carafe_backward", (grad, features, masks[:1]), "sizes do not fit: masks"),
    ):
        with pytest.raises(ValueError, match=f"{op}: {message}"):
            cuda.serve(op, *tensors, 3, 2, 2)
    features, masks, grad = DOWNSAMPLE.tensors(torch.float32, TRITON_DEVICE)
    for op, tensors, message in (
        ("carafe_downsample", (features[..., :9], masks), "sizes do not fit: features"),
        ("carafe_downsample", (features, masks[:, :9]), "sizes do not fit: masks"),
        ("carafe_downsample_grad_features", (grad[..., :4], masks), "sizes do not fit: masks"),
        ("carafe_downsample_grad_masks", (grad, features[..., :9]), "sizes do not fit: features"),
    ):
        with pytest.raises(ValueError, match=f"{op}: {message}"):
            cuda.serve(op, *tensors, 3, 2, 2)
    with pytest.raises(TypeError, match=r"tensors of one dtype on one device expected, got torch\.float16"):
        cuda.serve("carafe_downsample", features, masks.half(), 3, 2, 2)


def test_an_mmcv_that_cannot_be_imported_or_started_says_why(monkeypatch, mmcv):
    mmcv_backend._not_started.cache_clear()
    assert mmcv_backend._not_started(torch.device(TRITON_DEVICE)) is None

    def broken(**arguments):
        raise RuntimeError("no kernel image is available for execution on the device")

    mmcv.carafe_forward = broken
    mmcv_backend._not_started.cache_clear()
    assert "no kernel image" in mmcv_backend._not_started(torch.device(TRITON_DEVICE))
    mmcv_backend._not_started.cache_clear()
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "mmcv._ext", None)
    mmcv_backend._extension.cache_clear()
    assert "cannot be imported" in mmcv_backend._extension()
    mmcv_backend._extension.cache_clear()


def test_the_reference_comes_last():
    assert implementations("cuda")[-1] == "reference"


def test_one_warning_where_only_the_reference_is_left(only, recwarn):
    only("reference")
    inputs, _ = call("carafe", SAMPLE)
    for _ in range(2):
        assert cuda.choose("carafe", inputs[:2], *SAMPLE.args) == "reference"
    (warning,) = recwarn
    assert "no triton in this test; mmcv: no mmcv in this test" in str(warning.message)
    assert "install Triton" in str(warning.message)


def test_no_warning_for_float64_which_the_reference_serves(recwarn):
    inputs, _ = call("carafe", SAMPLE, torch.float64)
    assert cuda.choose("carafe", inputs[:2], *SAMPLE.args) == "reference"
    assert not recwarn


@needs_triton
def test_debug_log_says_what_was_chosen_and_why(only, mmcv, caplog):
    pytest.importorskip("triton")
    only("mmcv", "reference")
    inputs, _ = call("carafe", SAMPLE)
    with caplog.at_level(logging.DEBUG, "mmcarafe"):
        cuda.choose("carafe", inputs[:2], *SAMPLE.args)
    assert "carafe on (2, 4, 3, 5): mmcv; not triton: no triton in this test" in caplog.text


def test_an_implementation_asked_for_that_cannot_run_is_an_error():
    inputs, _ = call("carafe", SAMPLE, torch.float64)
    for name, reason in (("mmcv", "float64 would pass through float32"), ("triton", "float64 is not one of")):
        with (
            use_implementation("cuda", name),
            pytest.raises(ValueError, match=rf"{name} was asked for .* \(2, 4, 3, 5\): {reason}"),
        ):
            cuda.serve("carafe", *inputs)
    assert cuda.choose("carafe", inputs[:2], *SAMPLE.args) == "reference"


def test_unknown_implementation_is_named():
    with (
        pytest.raises(ValueError, match=r"expected one of triton, mmcv, reference, got 'cudnn'"),
        use_implementation("cuda", "cudnn"),
    ):
        pass


def test_environment_variable_chooses_the_implementation():
    code = (
        "import torch; from mmcarafe.ops import cuda; t = torch.ones(1, 1, 2, 2); "
        "print(cuda.choose('carafe', (t, t), 1, 1, 1))"
    )
    for name, last in (("reference", "reference"), ("cudnn", "MMCARAFE_CUDA): expected one of triton, mmcv")):
        env = {**os.environ, "MMCARAFE_CUDA": name}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
        assert last in (done.stdout + done.stderr).splitlines()[-1]


def test_without_triton_the_reason_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    triton_backend.unusable.cache_clear()
    try:
        assert triton_backend.unusable(False).startswith("Triton cannot be imported")
    finally:
        triton_backend.unusable.cache_clear()


def test_an_old_triton_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__="3.3.1"))
    triton_backend.unusable.cache_clear()
    try:
        assert triton_backend.unusable(False) == "Triton 3.4 or newer is needed, found 3.3.1"
    finally:
        triton_backend.unusable.cache_clear()


def test_import_leaves_mmcv_alone():
    code = "import sys, mmcarafe; print('mmcv' in sys.modules, 'mmcarafe.ops.triton_kernels' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"
