# SPDX-License-Identifier: Apache-2.0
"""Runs the commands of ``tools/``, as a process or in this one, and what their tests share."""

import contextlib
import io
import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

from mmengine.utils import ManagerMixin

ROOT = Path(__file__).parents[2]
TOOLS = {
    path.name: path
    for path in sorted((ROOT / "tools").rglob("*.*"))
    if path.suffix in (".py", ".sh") and path.parent.name != "benchmark"  # which holds parts of a command
}
CONFIG = ROOT / "configs/carafe/mask-rcnn_r18_fpn-carafe_shapes.py"
TWIN = ROOT / "configs/carafe/mask-rcnn_r18_fpn_shapes.py"
COCO_CONFIG = ROOT / "configs/carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py"
# a model that learns nothing in no time
SMALL = [
    "model.backbone.base_channels=8",
    "model.neck.in_channels=[8,16,32,64]",
    "train_dataloader.batch_size=2",
]


def free_port() -> str:
    """A port that no process listens on, for those that train together."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def tool(name: str, *args, cwd: Path, check: bool = True, gpu: bool = False) -> subprocess.CompletedProcess:
    """Run a command as a process of its own."""
    command = ["bash"] if name.endswith(".sh") else [sys.executable]
    # torchrun starts its workers with the python on PATH
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "PORT": free_port(),
    }
    if not gpu:  # toy runs use the CPU wherever they are run
        env["CUDA_VISIBLE_DEVICES"] = ""
    result = subprocess.run(
        [*command, str(TOOLS[name]), *map(str, args)],
        cwd=cwd, env=env, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    if check and result.returncode != 0:
        raise AssertionError(f"{name} failed:\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}")
    return result


def call(name: str, *args, cwd: Path, check: bool = True) -> subprocess.CompletedProcess:
    """Run a command in this process, which saves the time of importing torch and mmdet."""
    out, err, status = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO(), 0
    for kind in _below(ManagerMixin):  # a process begins without loggers, scopes and visualizers
        kind._instance_dict.clear()
    with (
        _inside(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.object(sys, "argv", [str(TOOLS[name]), *map(str, args)]),
    ):
        try:
            runpy.run_path(str(TOOLS[name]), run_name="__main__")
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            if isinstance(ended.code, str):  # which the interpreter would print
                print(ended.code, file=sys.stderr)
        out.flush()
    stdout = out.buffer.getvalue().decode()
    if check and status != 0:
        raise AssertionError(f"{name} failed:\n{stdout[-3000:]}\n{err.getvalue()[-3000:]}")
    return subprocess.CompletedProcess([name, *args], status, stdout, err.getvalue())


def _below(kind: type) -> list[type]:
    return [other for child in kind.__subclasses__() for other in (child, *_below(child))]


@contextlib.contextmanager
def _inside(folder: Path):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def refused(name: str, *args, cwd: Path, match: str) -> None:
    """Run a command that ends in one sentence, which holds ``match``."""
    result = call(name, *args, cwd=cwd, check=False)
    last = result.stderr.strip().splitlines()[-1]
    assert result.returncode != 0
    assert last.startswith(name), last
    assert match in last, last


def metrics(folder: Path) -> dict:
    """The last metrics that were written below a work directory."""
    (path,) = (p for p in folder.glob("*/*.json"))
    return json.loads(path.read_text().splitlines()[-1])
