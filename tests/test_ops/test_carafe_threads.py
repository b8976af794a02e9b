# SPDX-License-Identifier: Apache-2.0
"""The operator called from many Python threads at once, and in processes forked after it was used."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from samples import SAMPLES, every_implementation

from mmcarafe.ops import carafe, implementations, use_implementation

THREADS = 12
# A process forked from one that has used OpenMP hangs in its first parallel loop, torch's own too;
# so torch's loader gives each worker one thread, which is what is tested.
FORK = """
import sys, torch
from torch.utils.data import DataLoader, Dataset
from mmcarafe.ops import carafe, use_implementation

features = torch.rand(2, 64, 32, 32, requires_grad=True)
masks = torch.rand(2, 25, 64, 64, requires_grad=True)

class Upsampled(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        out = carafe(features, masks, 5, 1, 2)
        return out.detach(), torch.autograd.grad(out.sum(), features)[0]

torch.set_num_threads(4)
with use_implementation("cpu", sys.argv[1]):
    data = Upsampled()
    expected = data[0]
    batches = list(DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context="fork"))
    assert len(batches) == 4
    for batch in batches:
        for actual, right in zip(batch, expected, strict=True):
            assert all(t.equal(right) for t in actual)
    # and the parent goes on
    assert all(a.equal(b) for a, b in zip(data[0], expected, strict=True))
print("the same")
"""


def forward_and_backward(sample, dtype=torch.float32):
    features, masks, grad = sample.tensors(dtype)
    features.requires_grad_(), masks.requires_grad_()
    out = carafe(features, masks, *sample.args)
    return out.detach(), *torch.autograd.grad(out, (features, masks), grad)


def in_inference_mode(sample):
    with torch.inference_mode():
        features, masks, _ = sample.tensors(torch.float32)
        out = carafe(features, masks, *sample.args)
        assert out.is_inference()
    return (out.clone(),)


def in_autocast(sample):
    features, masks, grad = sample.tensors(torch.float32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = carafe(features, masks, *sample.args)
    assert out.dtype == torch.bfloat16
    return out.detach(), *torch.autograd.grad(out, (features, masks), grad.to(out.dtype))


def in_half(sample):
    return forward_and_backward(sample, torch.float16)


@pytest.mark.usefixtures("implementation")
@every_implementation
def test_threads_get_what_they_would_get_alone(implementation):
    kinds = (forward_and_backward, in_inference_mode, in_autocast, in_half)
    jobs = [(kinds[(i + j) % len(kinds)], sample) for i, sample in enumerate(SAMPLES) for j in range(2)]
    alone = [kind(sample) for kind, sample in jobs]
    start = Barrier(THREADS)

    def work(number):
        start.wait(30)
        # each thread has an order of its own, and sets its own number of OpenMP threads
        torch.set_num_threads(1 + number % 2)
        order = [(i + number * 5) % len(jobs) for i in range(len(jobs))] * 2
        return [(i, jobs[i][0](jobs[i][1])) for i in order]

    with ThreadPoolExecutor(THREADS) as pool:
        for results in pool.map(work, range(THREADS)):
            for i, tensors in results:
                assert all(a.equal(b) for a, b in zip(tensors, alone[i], strict=True))
    assert not torch.is_inference_mode_enabled()
    assert not torch.is_autocast_enabled("cpu")


def test_threads_share_one_graph():
    """Several backward passes through the same saved tensors at once."""
    features, masks, grad = SAMPLES[1].tensors(torch.float32, requires_grad=True)
    out = carafe(features, masks, *SAMPLES[1].args)

    def work(_):
        return torch.autograd.grad(out, (features, masks), grad.detach(), retain_graph=True)

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(work, range(10 * THREADS)))
    assert all(a.equal(b) for r in results for a, b in zip(r, results[0], strict=True))


@pytest.mark.needs(torch="2.7")  # says otherwise how it serves an operator
def test_an_implementation_is_chosen_for_all_threads():
    names = implementations("cpu")
    sample = SAMPLES[12]
    alone = {}
    for name in names:
        with use_implementation("cpu", name):
            alone[name] = forward_and_backward(sample)
    with ThreadPoolExecutor(1) as pool:
        for name in names:
            with use_implementation("cpu", name):
                there = pool.submit(forward_and_backward, sample).result()
                kernels = pool.submit(torch._C._dispatch_dump, "mmcarafe::carafe").result()
                if name != "reference":
                    assert pool.submit(torch.ops.mmcarafe._use_variant, name).result() == name
            assert all(a.equal(b) for a, b in zip(there, alone[name], strict=True))
            # the reference is registered from Python in place of the compiled kernel
            assert ("cpu.py" in kernels) == (name == "reference")


@pytest.mark.skipif(sys.platform != "linux", reason="the loader's workers are forked on Linux")
@pytest.mark.parametrize("name", dict.fromkeys([implementations("cpu")[0], "reference"]))
def test_forked_loader_workers_after_the_parent_used_the_operator(name):
    done = subprocess.run([sys.executable, "-c", FORK, name], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "the same"
