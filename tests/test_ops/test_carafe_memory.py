# SPDX-License-Identifier: Apache-2.0
"""What the operator takes from the machine: memory beyond its output, and none that is not its own."""

import os
import subprocess
import sys

import pytest
import torch
from samples import Sample

from mmcarafe.ops import implementations

COMPILED = implementations("cpu")[:-1]
# Most memory beyond the output, in outputs.
LIMITS = {
    ("compiled", "contiguous"): 0.15,
    ("compiled", "channels_last"): 0.15,
    ("reference", "contiguous"): 3.0,
}
MEASURE = """
import sys, torch
from mmcarafe import carafe

def memory(key):  # VmRSS: resident now, VmHWM: its high-water mark; in bytes
    line = next(line for line in open("/proc/self/status") if line.startswith(key))
    return int(line.split()[1]) * 1024

torch.set_num_threads(2)
features = torch.rand(1, 256, 100, 168)
masks = torch.rand(1, 25, 200, 336)
if sys.argv[1] == "channels_last":
    features = features.contiguous(memory_format=torch.channels_last)
carafe(features[:, :, :8, :8], masks[:, :, :16, :16], 5, 1, 2)  # what torch sets up once is not counted
resident, mark = memory("VmRSS"), memory("VmHWM")
out = carafe(features, masks, 5, 1, 2)
assert memory("VmHWM") > mark, "the peak was not in the call"
size = out.numel() * out.element_size()
print((memory("VmHWM") - resident - size) / size)
"""


@pytest.mark.parametrize(
    ("kind", "memory_format"), [key for key in LIMITS if COMPILED or key[0] == "reference"]
)
def test_scratch_memory_is_bounded(kind, memory_format, record_property):
    implementation = "reference" if kind == "reference" else COMPILED[0]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, memory_format],
        env={**os.environ, "MMCARAFE_CPU": implementation},
        capture_output=True,
        text=True,
        check=True,
    )
    extra = float(done.stdout)
    record_property("extra memory / output", extra)
    print(f"{implementation}, {memory_format}: extra memory {extra:.2f} x the output")
    assert extra <= LIMITS[kind, memory_format]


@pytest.mark.parametrize("implementation", COMPILED, indirect=True)
@pytest.mark.usefixtures("implementation")
def test_compiled_ops_refuse_what_would_leave_their_memory():
    features, masks, grad = Sample(2, 4, 3, 5, k=3, groups=2, scale=2).tensors()
    ops = torch.ops.mmcarafe
    for op, first, second, message in (
        (ops.carafe, features, masks[:, :9], "sizes do not fit"),
        (ops.carafe, features, masks[:1], "sizes do not fit"),
        (ops.carafe, features, masks[..., :9], "sizes do not fit"),
        (ops.carafe, features[:, :3], masks, "arguments do not fit"),
        (ops.carafe_grad_features, grad, masks[:, :, :5], "sizes do not fit"),
        (ops.carafe_grad_features, grad[..., :9], masks, "sizes do not fit"),
        (ops.carafe_grad_masks, grad, features[..., :4], "sizes do not fit"),
        (ops.carafe_grad_masks, grad[:, :2], features, "sizes do not fit"),
    ):
        with pytest.raises(ValueError, match=message):
            op(first, second, 3, 2, 2)
    with pytest.raises(ValueError, match="tensors of one dtype expected"):
        ops.carafe(features, masks.float(), 3, 2, 2)
