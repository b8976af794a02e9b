# SPDX-License-Identifier: Apache-2.0
"""A page on which one points at output pixels: image, kernels and script in one file, without a network."""

import json
from base64 import b64encode
from collections.abc import Sequence
from importlib.resources import files
from math import lcm

import cv2
import numpy as np

from .points import choose_points
from .view import View

JPEG_QUALITY = 90


def encode_kernels(kernels: np.ndarray) -> np.ndarray:
    """Return a byte for each weight: the root of its ratio to its kernel's largest, in 255ths.

    The root keeps small weights apart; a uniform kernel is exact.

    Args:
        kernels (float [G, k*k, H, W]): normalised kernels.

    Returns:
        uint8 [G, k*k, H, W]: for :func:`decode_kernels`.
    """
    return np.rint(255 * np.sqrt(kernels / kernels.max(1, keepdims=True))).astype(np.uint8)


def decode_kernels(codes: np.ndarray) -> np.ndarray:
    """Return the weights that the page computes with: float [G, k*k, H, W], which sum to 1."""
    squares = codes.astype(np.float64) ** 2
    return squares / squares.sum(1, keepdims=True)


def page(views: Sequence[View]) -> str:
    """Make the page of one image: for every output pixel the kernels, and what it was assembled from.

    Args:
        views (sequence of View): one or more of the same image; the page lets choose between them.

    Returns:
        str: HTML. The kernels take k * k bytes a pixel of each module's output, times 4/3 as text.
    """
    height, width = views[0].image.shape[:2]
    parts, errors = zip(*map(_part, views), strict=True)
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    image = cv2.imencode(".jpg", np.ascontiguousarray(views[0].image[..., ::-1]), quality)[1]
    precision = (
        "The page keeps a byte for each weight of a kernel: its weights differ from those that the model "
        f"predicted by at most {100 * max(errors):.2f} percentage points. The image is a JPEG."
    )
    data = dict(
        size=(width, height), image=f"data:image/jpeg;base64,{_text(image)}", precision=precision, views=parts
    )
    room = files("mmcarafe.visualization")
    template, script = ((room / f"kernel_page.{kind}").read_text(encoding="utf-8") for kind in ("html", "js"))
    # no name in the data can end the element
    packed = json.dumps(data).replace("<", "\\u003c")
    return template.replace("/* script */", script).replace("<!-- data -->", packed)


def _part(view: View) -> tuple[dict, float]:
    """Return what the script knows of a view, and the largest error of a weight."""
    levels, errors = [], []
    for number, call in enumerate(view.calls):
        kernels = call.kernels[view.index].float().unflatten(0, (call.groups, -1)).cpu().numpy()
        codes = encode_kernels(kernels)
        errors.append(float(np.abs(decode_kernels(codes) - kernels).max()))
        rows, columns = call.features.shape[2:]
        level = dict(name=call.name.removeprefix(f"{view.name}."), height=rows, width=columns)
        level |= dict(size=call.kernel_size, groups=call.groups, scale=call.scale, kernels=_text(codes))
        levels.append(level | dict(entropy=_text(np.rint(255 * view.entropy(number)).astype(np.uint8))))
    rows, columns = view.cells(view.inside)
    bottom, right = view.calls[0].kernels.shape[2:]
    (point,) = choose_points(view, 1)
    return dict(
        name=f"{view.name}, RoI with the highest score" if view.is_roi else view.name,
        box=view.box,
        step=view.step(-1),
        rows=(rows.start, min(rows.stop, bottom)),
        columns=(columns.start, min(columns.stop, right)),
        start=view.pixel(point.x, point.y),
        channels=lcm(*(call.groups for call in view.calls)),
        levels=levels,
    ), max(errors)


def _text(values: np.ndarray) -> str:
    return b64encode(np.ascontiguousarray(values).tobytes()).decode()
