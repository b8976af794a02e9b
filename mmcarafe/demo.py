# SPDX-License-Identifier: Apache-2.0
"""Draw what CARAFE does in one picture, in seconds, with torch and matplotlib: ``python -m mmcarafe demo``.

A CARAFE layer learns, on small random drawings, to bring a map of half their size back to full size. The
picture shows it at work on a drawing that it has not seen. It is told more than colours, as in a network:
some channels of the map say where edges are, here by fixed filters.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcarafe.errors import InputError
from mmcarafe.layers import CARAFE

SOBEL = torch.tensor([[[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], [[0, 1, 2], [-1, 0, 1], [-2, -1, 0]]])
SOBEL = torch.cat((SOBEL, SOBEL.rot90(1, (1, 2))))
SOBEL = torch.cat((SOBEL, -SOBEL))
"""Filters of 3 x 3 that answer to edges of eight directions."""


def draw(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Draw discs, bars and trapezia at random over grounds of two colours: Tensor[count, 3, side, side]."""
    fine = torch.linspace(0, 1, 4 * side)  # averaged down below
    y, x = torch.meshgrid(fine, fine, indexing="ij")

    def number(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    drawings = []
    for _ in range(count):
        drawing = torch.lerp(number(3, 1, 1), number(3, 1, 1), x)
        for kind in (0, 1, 2) * 3:
            (left, top), angle, size = number(2), 2 * torch.pi * number(1), 0.08 + 0.17 * number(1)
            p = (x - left) * angle.cos() + (y - top) * angle.sin()
            q = (y - top) * angle.cos() - (x - left) * angle.sin()
            disc, bar = p**2 + q**2 < size**2, (p.abs() < size) & (q.abs() < size / 4)
            inside = (disc, bar, (p.abs() < size / 2) & (q.abs() < (size - p) / 2))[kind]
            drawing = torch.where(inside, number(3, 1, 1), drawing)
        drawings.append(drawing)
    return F.avg_pool2d(torch.stack(drawings), 4)


def features(drawings: Tensor) -> Tensor:
    """Return maps of half the size: Tensor[N, 3, H, W] -> Tensor[N, 11, H/2, W/2], colours and edges."""
    colours = F.avg_pool2d(drawings, 2)
    brightness = F.pad(colours.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    return torch.cat((colours, F.conv2d(brightness, SOBEL[:, None]).relu()), 1)


def fit(steps: int) -> tuple[CARAFE, Tensor]:
    """Fit a layer to random drawings; return it, and one it has not seen, Tensor[1, 3, 128, 128]."""
    with torch.random.fork_rng():
        generator = torch.manual_seed(0)
        drawings, unseen = draw(24, 48, generator), draw(1, 128, generator)
        layer = CARAFE(11, up_kernel=3, compressed_channels=16, start="nearest")
        optimizer = torch.optim.Adam(layer.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.03, total_steps=steps)
        for _ in range(steps):
            batch = drawings[torch.randint(len(drawings), (4,))]
            optimizer.zero_grad()
            F.mse_loss(layer(features(batch))[:, :3], batch).backward()
            optimizer.step()
            schedule.step()
    return layer, unseen


def write(path: Path, steps: int = 300) -> dict[str, float]:
    """Fit, write the picture, and return the root mean square error of each way to upsample, in per cent.

    Raises:
        InputError: matplotlib, which draws it, is not installed, or the name is none of a PNG.
    """
    if path.suffix.lower() != ".png":
        raise InputError(f"expected a name that ends in .png, under which to write the picture, got {path}")
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as missing:
        raise InputError("the picture is drawn by matplotlib: pip install matplotlib") from missing
    layer, drawing = fit(steps)
    small = features(drawing)
    ways = {way: F.interpolate(small[:, :3], scale_factor=2, mode=way) for way in ("nearest", "bilinear")}
    ways["CARAFE"] = layer(small)[:, :3].detach()
    errors = {way: 100 * F.mse_loss(colours, drawing).sqrt().item() for way, colours in ways.items()}
    figure = Figure(figsize=(12, 7), layout="constrained")
    figure.suptitle(
        "A map of 64 x 64 (3 colours, 8 fixed edge filters), upsampled to 128 x 128; below, a part enlarged. "
        f"CARAFE was fitted for {steps} steps\nto 24 drawings of this kind; this one it has not seen. Errors "
        "are root mean square, in % of the range. What a detector learns is another matter."
    )
    axes = figure.subplots(2, 4)
    for column, (way, colours) in zip(axes.T, {**ways, "the drawing itself": drawing}.items(), strict=True):
        pixels = colours[0].clamp(0, 1).permute(1, 2, 0).numpy()
        column[0].set_title(f"{way}, error {errors[way]:.2f} %" if way in errors else way)
        for axis, part in zip(column, (pixels, pixels[60:100, 60:100]), strict=True):
            axis.imshow(part, interpolation="nearest")
            axis.set_axis_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, format="png")
    return errors
