# SPDX-License-Identifier: Apache-2.0
"""Exported detectors compute what PyTorch computes, on other inputs than those they were exported with."""

import cv2
import numpy as np
import pytest
import torch
from commands import SMALL, call, refused
from lively import CONFIGS, config

from mmcarafe.deploy.runtimes import runtime
from mmcarafe.layers import CARAFE

onnx = pytest.importorskip("onnx", reason="the ONNX tools, an optional requirement, are not installed")
pytest.importorskip("onnxscript", reason="the ONNX tools, an optional requirement, are not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
pytestmark = pytest.mark.needs(torch="2.10")

SLOW = pytest.mark.slow
SHAPES = CONFIGS / "mask-rcnn_r18_fpn-carafe_shapes.py"


def export(path, folder, *args, checkpoint=()):
    result = call(
        "export.py",
        path,
        *checkpoint,
        "--shape",
        192,
        224,
        "--output",
        folder / "model.onnx",
        *args,
        cwd=folder,
    )
    return result.stdout


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (150, 131, 3), dtype=np.uint8))
    return path


def test_verified_on_an_image_with_times_and_the_checkpoints_weights(trained, image, tmp_path):
    """The input is the image as OpenCV reads it: channel order and normalisation are in the model."""
    options = ["--cfg-options", *SMALL[:2]]
    out = export(
        SHAPES,
        tmp_path,
        "--part",
        "raw",
        "--dynamic",
        "--verify",
        image,
        *options,
        checkpoint=[trained / "epoch_1.pth"],
    )
    rows = [line.split("│") for line in out.splitlines() if line.startswith("│")]
    assert all(float(row[3]) > 0 and float(row[4]) > 0 for row in rows)
    assert any(str(image)[:20] in row[1] for row in rows)
    assert "MB" in out and "loaded in" in out


@pytest.mark.parametrize(
    ("part", "kind", "inputs"),
    [pytest.param("neck", "DySample", 4, marks=SLOW), ("upsampler", "SAPA", 2)],
    ids=["neck", "upsampler"],
)
def test_parts(part, kind, inputs, tmp_path):
    select = ["--cfg-options", f"model.neck.upsample_cfg.type={kind}"]
    options = ["--part", part, "--dynamic", "--gather", *select]
    assert "verified" in export(config("retinanet_r50_fpn"), tmp_path, *options)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    assert len(session.get_inputs()) == inputs
    assert "GridSample" not in {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}


@SLOW
def test_the_upsampler_of_a_checkpoint(trained, tmp_path):
    checkpoint = trained / "epoch_1.pth"
    options = ["--part", "upsampler", "--cfg-options", *SMALL[:2]]
    export(SHAPES, tmp_path, *options, checkpoint=[checkpoint])
    weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    start = "neck.upsample_modules.0."
    layer = CARAFE(64)
    layer.load_state_dict({k.removeprefix(start): v for k, v in weights.items() if k.startswith(start)})
    run, _ = runtime(tmp_path / "model.onnx")
    x = torch.rand(1, 64, 24, 28)
    torch.testing.assert_close(run((x,))[0], layer(x), rtol=1e-4, atol=1e-4)


def test_a_program_of_torch_export_saves_and_loads(tmp_path):
    shape, small = ["--shape", 192, 224], ["--cfg-options", *SMALL[:2]]
    options = [*shape, "--part", "raw", "--dynamic", "--output", "model.pt2", *small]
    out = call("export.py", SHAPES, *options, cwd=tmp_path).stdout
    assert "verified" in out
    program = torch.export.load(tmp_path / "model.pt2")
    assert torch.ops.mmcarafe.carafe.default in {node.target for node in program.graph.nodes}


RETINANET = CONFIGS / "retinanet_r50_fpn-carafe_1x_coco.py"
SHAPE = ["--shape", 192, 192]


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["nothing.py"], "config nothing.py does not exist"),
        ([RETINANET, "gone.pth"], "checkpoint gone.pth does not exist"),
        (["mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", "--part", "upsampler"], "this config has none"),
        (["mmdet::detr/detr_r50_8xb2-150e_coco.py", *SHAPE, "--part", "raw"], "DETR has no dense head"),
        ([RETINANET, *SHAPE, "--verify", "gone.png"], "image gone.png does not exist"),
        (
            [RETINANET, *SHAPE, "--part", "upsampler", "--verify", "--tolerance", 1e-12],
            "differs from PyTorch by",
        ),
    ],
    ids=["config", "checkpoint", "upsampler", "transformer", "image", "tolerance"],
)
def test_a_mistake_is_named(tmp_path, args, match):
    refused("export.py", *args, cwd=tmp_path, match=match)
    assert not (tmp_path / "model.onnx").exists() or "differs" in match
