# SPDX-License-Identifier: Apache-2.0
"""The page shows the numbers of trace and kernels: its data, its script under Node.js, and in a browser."""

import base64
import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from views import view

from mmcarafe import visualization
from mmcarafe.visualization import page
from mmcarafe.visualization.kernel_page import decode_kernels, encode_kernels

SCRIPT = Path(visualization.__file__).parent / "kernel_page.js"
KINDS = {
    "three levels": dict(levels=3, size=(3, 4)),
    "cropped": dict(levels=3, size=(3, 4), cut=1),
    "groups": dict(groups=(1, 2, 4), size=(3, 4)),
    "3 x 3": dict(k=3, spread=0.3),
    "1 x 1": dict(levels=1, k=1),
    "uniform": dict(spread=0.0),
    "RoI": dict(levels=1, size=(14, 14), box=(-9.0, 30.25, 200.0, 40.0)),
}
every_kind = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)


def data_of(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])


def unpack(level: dict, name: str, channels: int) -> np.ndarray:
    sides = level["height"] * level["scale"], level["width"] * level["scale"]
    return np.frombuffer(base64.b64decode(level[name]), np.uint8).reshape(-1, channels, *sides)


def worst(seen) -> float:
    """The largest error that a share of a trace can have: those of the kernels of all levels, summed up."""
    total = 0.0
    for call in seen.calls:
        kernels = call.kernels[0].unflatten(0, (call.groups, -1)).numpy()
        total += np.abs(decode_kernels(encode_kernels(kernels)) - kernels).sum(1).max()
    return total + 1e-6


@every_kind
def test_the_data_are_the_kernels_and_their_entropy(options):
    seen = view(**options)
    data = data_of(page([seen]))
    stated = float(re.search(r"at most (\d+\.\d+) percentage points", data["precision"])[1]) / 100
    assert stated < 0.004
    (part,) = data["views"]
    for number, (level, call) in enumerate(zip(part["levels"], seen.calls, strict=True)):
        kernels = decode_kernels(unpack(level, "kernels", call.kernel_size**2))
        np.testing.assert_allclose(
            kernels.reshape(call.kernels[0].shape), call.kernels[0], atol=stated + 5e-5
        )
        np.testing.assert_allclose(kernels.sum(1), 1)
        np.testing.assert_allclose(unpack(level, "entropy", 1)[0, 0] / 255, seen.entropy(number), atol=0.002)
    rows, columns = seen.cells(seen.inside)
    assert part["rows"][0] == rows.start and part["columns"][0] == columns.start
    assert part["rows"][1] <= seen.calls[0].kernels.shape[2]


def test_the_page_of_the_guide_has_this_script():
    """docs/kernels.md has the command that makes it anew."""
    shown = (Path(__file__).parents[2] / "docs/kernels_page.html").read_text()
    made = page([view(levels=1)])
    assert re.sub(r'"data">.*', "", shown) == re.sub(r'"data">.*', "", made)


def test_near_uniform_and_small_weights_keep_their_ratios():
    even = np.full((1, 25, 1, 1), 0.04)
    np.testing.assert_array_equal(decode_kernels(encode_kernels(even)), even)
    steep = np.array([0.9] + [0.1 / 24] * 24).reshape(1, 25, 1, 1)
    np.testing.assert_allclose(decode_kernels(encode_kernels(steep)), steep, rtol=0.07)


def test_a_name_cannot_end_the_data():
    seen = view(levels=1)
    object.__setattr__(seen, "name", "</script><b>")
    assert data_of(page([seen]))["views"][0]["name"] == "</script><b>"


def test_the_page_of_a_large_image_is_small():
    """An FPN's at 800 x 1344: maps of stride 8, 16 and 32, 25 weights for each pixel made of them."""
    seen = view(levels=3, size=(25, 42), image=(800, 1344))
    seen.image[:] = 128  # a photograph takes 0.2 to 0.5 MB more
    assert len(page([seen])) < 4.2e6


def interpolated(seen, mode, row, column) -> list[np.ndarray]:
    """What nearest or bilinear interpolation takes from each level: its gradient."""
    grad = torch.zeros(seen.calls[0].kernels.shape[2:])
    grad[row, column] = 1
    found = []
    for call in seen.calls:
        height, width = call.features.shape[2:]
        source = torch.zeros(1, 1, height, width, requires_grad=True)
        larger = F.interpolate(source, scale_factor=call.scale, mode=mode)[0, 0]
        grad = F.pad(grad, (0, larger.shape[1] - grad.shape[1], 0, larger.shape[0] - grad.shape[0]))
        (grad,) = torch.autograd.grad(larger, source, grad)
        grad = grad[0, 0]
        found.append(grad.numpy())
    return found


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
@every_kind
def test_the_script_traces_as_the_package_does(options, tmp_path):
    seen = view(**options)
    height, width = seen.calls[0].kernels.shape[2:]
    pixels = [(0, 0), (height - 1, width - 1), (height // 2, width // 3), (1, width - 2)]
    (tmp_path / "data.json").write_text(json.dumps(data_of(page([seen]))))
    code = f"""
    const page = require({json.dumps(str(SCRIPT))});
    const [view] = page.decode(JSON.parse(require("fs").readFileSync("data.json"))).views;
    const found = {json.dumps(pixels)}.map((pixel) => ["CARAFE", "nearest", "bilinear"].map((method) =>
        page.trace(view, method, ...pixel)));
    console.log(JSON.stringify(found));
    """
    result = subprocess.run(["node", "-e", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for pixel, methods in zip(pixels, json.loads(result.stdout), strict=True):
        x, y, dx, dy = seen.cell(*pixel)
        carafe = seen.weights(x + dx / 2, y + dy / 2)
        expected = carafe, interpolated(seen, "nearest", *pixel), interpolated(seen, "bilinear", *pixel)
        for number, (ours, theirs) in enumerate(zip(methods, expected, strict=True)):
            for cells, weights in zip(ours, theirs, strict=True):
                drawn = np.zeros_like(weights)
                for cell in cells:
                    drawn[cell["row"], cell["column"]] = cell["share"]
                np.testing.assert_allclose(drawn, weights, atol=1e-6 if number else worst(seen))


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MOVES = """
<script>
const canvas = document.getElementById("image"), found = [], text = (node) => node.textContent;
const all = (what, node = document) => [...node.querySelectorAll(what)];
const at = (x, y, options) => {
  const area = canvas.getBoundingClientRect(), zoom = area.width / WIDTH;
  return { clientX: area.left + x * zoom, clientY: area.top + y * zoom, bubbles: true, ...options };
};
const move = (...place) => canvas.dispatchEvent(new PointerEvent("pointermove", at(...place)));
const press = (...place) => canvas.dispatchEvent(new PointerEvent("pointerdown", at(...place)));
const key = (name, shiftKey) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key: name, shiftKey }));
const keep = () => found.push({
  status: text(document.getElementById("status")),
  shares: all("#numbers tr").map((row) => all("td", row).map(text)),
  kernels: all("table.kernel").map((table) => all("td", table).map(text)),
  uniform: all("meter").map((meter) => meter.value),
});
function play() {
  if (!document.querySelector("meter")) return void setTimeout(play, 20);
  STEPS
  const said = document.createElement("pre");
  said.textContent = JSON.stringify(found);
  document.body.replaceChildren(said);
}
play();
</script>
"""


def in_browser(text: str, width: int, steps: str, folder: Path) -> list[dict]:
    """What the page shows after each ``keep()`` among steps in its own language."""
    moves = MOVES.replace("WIDTH", str(width)).replace("STEPS", steps)
    (folder / "page.html").write_text(text.replace("</body>", moves + "</body>"))
    command = [
        *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={folder}/profile", "--virtual-time-budget=5000", "--dump-dom"),
        (folder / "page.html").as_uri(),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    pre = re.search(r"<pre>(.*?)</pre>", result.stdout, re.S)
    assert pre, result.stderr[-2000:]
    return json.loads(html.unescape(pre[1]))


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (Debian: chromium)")
def test_what_a_pointer_and_keys_bring_up_is_what_trace_says(tmp_path):
    seen = view(levels=3, size=(3, 4), spread=0.4)
    dx, dy = seen.step(-1)
    steps = """
    move(70, 42); keep();
    key("ArrowRight"); key("ArrowUp", true); keep();
    press(20, 90, { pointerType: "mouse" }); move(100, 10); keep();
    press(20, 90, { pointerType: "mouse" }); move(143.9, 95.9); keep();
    press(5, 5, { pointerType: "touch" }); move(60, 62); keep();
    move(-30, -30); keep();
    """
    row, column = seen.pixel(70, 42)
    expected = [
        (row, column),
        (row - 8, column + 1),
        seen.pixel(20, 90),
        seen.pixel(143.9, 95.9),
        seen.pixel(60, 62),
        (0, 0),
    ]
    for shown, (row, column) in zip(in_browser(page([seen]), 144, steps, tmp_path), expected, strict=True):
        assert f"row {row}, column {column};" in shown["status"]
        x, y = (column + 0.5) * dx, (row + 0.5) * dy
        for number, weights in enumerate(seen.weights(x, y)):
            drawn = np.zeros_like(weights)
            for level, r, c, share in shown["shares"]:
                if int(level) == number:
                    drawn[int(r), int(c)] = float(share) / 100
            np.testing.assert_allclose(
                drawn, np.where(weights >= 0.01, weights, drawn), atol=worst(seen) + 6e-4
            )
        for number, kernel in enumerate(seen.kernels(x, y)):
            carafe, nearest, bilinear = shown["kernels"][3 * number : 3 * number + 3]
            printed = np.array([float(value or 0) for value in carafe]).reshape(kernel.shape)
            np.testing.assert_allclose(printed, 100 * kernel, atol=0.45)
            assert nearest == [""] * 12 + ["100.0"] + [""] * 12
            assert sum(float(value or 0) for value in bilinear) == pytest.approx(100, abs=0.3)
            at = seen.pixel(x, y, number - 1)
            assert shown["uniform"][number] == pytest.approx(seen.entropy(number)[at], abs=0.003)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (Debian: chromium)")
def test_another_part_is_chosen_and_a_roi_is_not_left(tmp_path):
    neck, head = view(levels=2), view(levels=1, size=(14, 14), box=(20.5, 30.25, 41.0, 88.75))
    object.__setattr__(head, "name", "head")
    steps = """
    const part = document.getElementById("part");
    keep();
    part.value = 1; part.dispatchEvent(new Event("change"));
    move(0, 0); keep();
    move(143, 95); keep();
    """
    first, corner, other = in_browser(page([neck, head]), 144, steps, tmp_path)
    assert len(first["kernels"]) == 6 and len(corner["kernels"]) == 3
    assert "row 0, column 0;" in corner["status"] and "row 27, column 27;" in other["status"]
