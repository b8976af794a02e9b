# SPDX-License-Identifier: Apache-2.0
"""A small network with the layer learns in every way in which networks are trained, on CPU and GPU."""

import copy
import os

import pytest
import torch
import torch.nn.functional as F
from samples import every_device
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmcarafe.layers import CARAFE

STEPS = 25


class Net(nn.Module):
    """Learns bilinear upsampling of its first channel."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.upsample = CARAFE(16, up_kernel=3, compressed_channels=8)
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, x):
        return self.head(self.upsample(self.stem(x).relu()))


def batch(device: str) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(4, 3, 13, 11, generator=torch.Generator().manual_seed(0))
    x = F.avg_pool2d(x, 3, 1, 1)
    return x.to(device), F.interpolate(x[:, :1], scale_factor=2, mode="bilinear").to(device)


def losses(net: nn.Module, device: str, autocast: torch.dtype | None = None, **formats) -> list[float]:
    """Loss of each training step."""
    x, target = batch(device)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    scaler = torch.amp.GradScaler(device, enabled=autocast == torch.float16)
    history = []
    for _ in range(STEPS):
        with torch.autocast(device, autocast, enabled=autocast is not None):
            loss = F.mse_loss(net(x.to(**formats)).float(), target)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        history.append(loss.item())
    return history


@pytest.fixture
def net():
    torch.compiler.reset()
    return Net()


@pytest.fixture
def plain(net):
    """What float32 training on the CPU gives."""
    history = losses(copy.deepcopy(net), "cpu")
    assert history[-1] < 0.3 * history[0]
    return history


@every_device
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_float32(net, plain, device, memory_format):
    net = net.to(device, memory_format=memory_format)
    history = losses(net, device, memory_format=memory_format)
    assert history == pytest.approx(plain, rel=0.02)


@every_device
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_mixed_precision(net, plain, device, dtype, memory_format):
    net = net.to(device, memory_format=memory_format)
    history = losses(net, device, dtype, memory_format=memory_format)
    assert history[0] == pytest.approx(plain[0], rel=0.02)
    assert history[-1] < 0.4 * history[0]


@every_device
@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
def test_compiled_without_graph_break(net, plain, device, autocast):
    backend = "inductor" if device == "cuda" else "aot_eager"  # inductor takes a minute of C++ on a CPU
    history = losses(torch.compile(net.to(device), fullgraph=True, backend=backend), device, autocast)
    assert history[0] == pytest.approx(plain[0], rel=0.02)
    assert history[-1] < 0.4 * history[0]


@pytest.mark.needs_cuda
def test_cuda_graphs(net, plain):
    x, _ = batch("cuda")
    graphed = torch.cuda.make_graphed_callables(net.cuda(), (x,))
    assert losses(graphed, "cuda") == pytest.approx(plain, rel=0.02)


def one_process(rank: int, device: str, folder: str) -> None:
    """Half of the batch in each of two processes; what rank 0 ends with is saved."""
    several = device == "cuda" and torch.cuda.device_count() > 1
    if device == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # as in the test's own process
        device = f"cuda:{rank if several else 0}"
        torch.cuda.set_device(device)
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "nccl" if several else "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    torch.manual_seed(0)
    net = DistributedDataParallel(Net().to(device))
    x, target = batch(device)
    F.mse_loss(net(x[rank::2]), target[rank::2]).backward()
    if rank == 0:
        gradients = {name: p.grad.cpu() for name, p in net.module.named_parameters()}
        torch.save(gradients, f"{folder}/gradients.pt")
    torch.distributed.barrier()
    # no destructors: torch's may wait for a thread of gloo that waits for Python's lock
    os._exit(0)


@every_device
@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(net, device, tmp_path):
    torch.multiprocessing.spawn(one_process, (device, str(tmp_path)), nprocs=2)
    torch.manual_seed(0)
    net = Net()
    x, target = batch("cpu")
    F.mse_loss(net(x), target).backward()
    gradients = torch.load(tmp_path / "gradients.pt")
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-5)
