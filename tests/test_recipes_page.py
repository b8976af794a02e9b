# SPDX-License-Identifier: Apache-2.0
"""The blocks of docs/recipes.md run as they stand, and what they make is right."""

import json
import re
from pathlib import Path

import cv2
import guides
import numpy as np
import pytest
import torch
from commands import CONFIG, call
from mmdet.apis import inference_detector, init_detector
from mmengine.registry import VISBACKENDS

from mmcarafe.apis.config import read_config
from mmcarafe.apis.libraries import build_model
from mmcarafe.datasets.configured import check_data
from mmcarafe.datasets.shapes.drawing import CLASSES

INSTALL = "pip install --no-deps -r requirements/recipes.txt"
SECTIONS = guides.sections("recipes.md")
WEIGHTS = Path("work_dirs/quickstart/mask-rcnn_r18_fpn-carafe_shapes/epoch_7.pth")
SMALL = f"""
_base_ = {str(CONFIG)!r}
model = dict(backbone=dict(base_channels=8), neck=dict(in_channels=[8, 16, 32, 64]))
train_cfg = dict(max_epochs=1, val_interval=1)
"""


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """A folder as quickstart.sh leaves it, with a small detector that sees a disk wherever it looks."""
    folder = tmp_path_factory.mktemp("recipes")
    call("make_shapes_dataset.py", "data/shapes", "--train", 4, "--val", 9, cwd=folder)
    config = folder / "configs/carafe" / CONFIG.name
    config.parent.mkdir(parents=True)
    config.write_text(SMALL)
    torch.manual_seed(0)
    model = build_model(read_config(str(config)))
    with torch.no_grad():
        model.roi_head.bbox_head.fc_cls.bias[CLASSES.index("disk")] = 4
        model.roi_head.mask_head.conv_logits.bias.fill_(1)
    (folder / WEIGHTS).parent.mkdir(parents=True)
    meta = dict(dataset_meta=dict(classes=CLASSES))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / WEIGHTS)
    return folder


@pytest.fixture
def recipe(quickstart, monkeypatch, capsys):
    """Runs the Python of a section in that folder, and returns its names."""
    monkeypatch.chdir(quickstart)

    def run(heading: str, package: str) -> dict:
        pytest.importorskip(package, reason=f"{package} is missing: {INSTALL}")
        names = {"__name__": "__main__"}
        for block in guides.blocks(SECTIONS[heading]):
            if block.startswith("# "):  # a config, with its name
                Path(block.split()[1]).write_text(block)
            else:
                guides.run(block, capsys, names)
        return names

    return run


def mmdets(image: np.ndarray, score_thr: float):
    """What mmdet finds in BGR pixels, by its own call."""
    model = init_detector(str(Path("configs/carafe") / CONFIG.name), str(WEIGHTS), device="cpu")
    found = inference_detector(model, image).pred_instances
    return found[found.scores > score_thr]


def test_own_data(recipe, quickstart):
    recipe("Your own data set", "mmengine")
    (commands,) = guides.blocks(SECTIONS["Your own data set"], "bash")
    check, train = commands.replace("\\\n", "").strip().split("\n")
    _, tool, *options = check.split()
    said = call(Path(tool).name, *options, cwd=quickstart)
    assert "train_dataloader.dataset, CocoDataset of" in said.stdout and "no data set of" not in said.stdout
    cfg = read_config(train.split()[2])
    check_data(cfg, "train", "val", "test")
    assert [type(module).__name__ for module in build_model(cfg).neck.upsample_modules] == ["CARAFE"] * 3


def test_supervision(recipe):
    names = recipe("Pictures and videos with supervision", "supervision")
    image = cv2.imread("data/shapes/val2017/000000000006.png")
    found, expected = names["detect"](image), mmdets(image, 0.5)
    assert len(found) and set(found["class_name"]) == {"disk"}
    np.testing.assert_array_equal(found.xyxy, expected.bboxes)
    np.testing.assert_array_equal(found.mask, expected.masks)
    drawn = cv2.imread("annotated.png")
    assert drawn.shape == image.shape and np.any(drawn != image)
    frames = [list(names["sv"].get_video_frames_generator(f"{name}.mp4")) for name in ("shapes", "annotated")]
    assert [len(frame) for frame in frames] == [4, 4]
    plain, drawn = np.float32(frames)
    assert (abs(plain - drawn).mean((1, 2, 3)) > 5).all(), "each frame is drawn on"


def test_sahi(recipe):
    names = recipe("Large pictures with sahi", "sahi")
    found, large = names["result"].object_prediction_list, cv2.imread("large.png")
    assert large.shape == cv2.imread("sliced/large.png").shape == (320, 320, 3)
    assert {part.category.name for part in found} == {"disk"}
    assert all(part.mask.bool_mask.any() for part in found)
    # the last slice begins at (160, 160)
    last = mmdets(large[160:, 160:], 0.5).bboxes.numpy()
    assert max(max(part.bbox.to_xyxy()) for part in found) == pytest.approx(last.max() + 160, abs=2)
    from sahi.predict import get_prediction

    alone = get_prediction(large[160:, 160:, ::-1], names["model"]).object_prediction_list  # RGB
    np.testing.assert_allclose(
        [part.bbox.to_xyxy() for part in alone], last, atol=2
    )  # its boxes are the masks'


@pytest.mark.needs(torch="2.13")  # reads safetensors
def test_hugging_face_hub(recipe):
    names = recipe("The Hugging Face Hub", "huggingface_hub")
    from huggingface_hub import ModelCard

    layer = Path("hub/carafe-layer")
    assert json.loads((layer / "config.json").read_text())["up_kernel"] == 3
    assert {"README.md", "config.json", "model.safetensors"} == {path.name for path in layer.iterdir()}
    assert ModelCard.load(layer / "README.md").data.license == "apache-2.0"
    card = ModelCard.load(names["folder"] / "README.md").data.to_dict()
    assert {"license", "library_name", "tags", "datasets", "metrics", "model-index"} <= card.keys()
    image = cv2.imread("data/shapes/val2017/000000000006.png")
    inferencer, expected = names["inferencer"], mmdets(image, 0)
    found = inferencer([inferencer.take(image)], return_datasamples=True)["predictions"][0].pred_instances
    for key in ("bboxes", "scores", "labels", "masks"):
        assert torch.equal(found[key], expected[key])


def test_tracking_config(recipe):
    recipe("TensorBoard and MLflow", "mmengine")

    def backends(*args) -> list[str]:
        return [backend.type for backend in read_config(*args).visualizer.vis_backends]

    assert backends("tracked.py") == ["LocalVisBackend", "TensorboardVisBackend", "MLflowVisBackend"]
    assert all(VISBACKENDS.get(kind) for kind in backends("tracked.py"))
    option = re.search(r"`--cfg-options (\S+)=(\S+)`", SECTIONS["TensorBoard and MLflow"])
    assert backends(str(CONFIG), {option[1]: option[2]}) == ["TensorboardVisBackend"]


@pytest.mark.slow
def test_tracking(recipe, quickstart):
    recipe("TensorBoard and MLflow", "mlflow")
    from mlflow import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (commands,) = guides.blocks(SECTIONS["TensorBoard and MLflow"], "bash")
    assert commands.startswith("python tools/train.py tracked.py\n")
    call("train.py", "tracked.py", cwd=quickstart)
    (scalars,) = Path("work_dirs/tracked").rglob("scalars.json")
    training, validation = map(json.loads, scalars.read_text().splitlines())
    expected = {"loss": training["loss"], "coco/segm_mAP": validation["coco/segm_mAP"]}

    events = EventAccumulator(str(scalars.parent)).Reload()
    client = MlflowClient("sqlite:///mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("shapes").experiment_id])
    for name, value in expected.items():
        assert [event.value for event in events.Scalars(name)] == pytest.approx([value])
        assert run.data.metrics[name] == pytest.approx(value)
    assert run.info.run_name == "carafe" and run.info.status == "FINISHED"
    assert run.data.params["model.neck.upsample_cfg.type"] == "CARAFE"
