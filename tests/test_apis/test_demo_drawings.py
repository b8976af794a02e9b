# SPDX-License-Identifier: Apache-2.0
"""The demo's pictures, videos and maps: colours are those of the image, and maps hold what was found."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData, PixelData

from mmcarafe.apis.drawing import Drawing

BLUE = np.full((48, 64, 3), (255, 0, 0), np.uint8)  # BGR, as OpenCV has it


@pytest.mark.parametrize("fps", [0, 5], ids=["picture", "video"])
def test_colours_stay(fps, tmp_path):
    nothing = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long(), scores=torch.zeros(0))
    visualizer = DetLocalVisualizer()
    visualizer.dataset_meta = dict(classes=("a",), palette=[(9, 9, 9)])
    drawing = Drawing(visualizer, tmp_path, fps)
    path = drawing.write("a.jpg", BLUE, DetDataSample(pred_instances=nothing))
    drawing.close()
    if fps:
        drawn = cv2.VideoCapture(str(path)).read()[1]
        assert abs(drawn.astype(int) - BLUE).max() < 30
    else:
        assert path == tmp_path / "a.png"
        assert (cv2.imread(str(path)) == BLUE).all()


def maps_of(classes: int, indices: torch.Tensor, folder) -> np.ndarray:
    """The map that the demo writes."""
    pytest.importorskip("mmseg", reason="mmsegmentation, an optional requirement, is not installed")
    from mmseg.structures import SegDataSample
    from mmseg.visualization import SegLocalVisualizer

    from mmcarafe.apis.map_results import Maps

    names = tuple(f"class {n}" for n in range(classes))
    visualizer = SegLocalVisualizer(alpha=1.0)
    visualizer.dataset_meta = dict(classes=names, palette=[(n % 256, 0, 255) for n in range(classes)])
    model = SimpleNamespace(dataset_meta=dict(classes=names))
    args = SimpleNamespace(score_thr=None, ann_file=None)
    maps = Maps(SimpleNamespace(model=model, visualizer=visualizer), args, ["a.jpg"], folder)
    sample = SegDataSample(pred_sem_seg=PixelData(data=indices[None]))
    maps.add("a.jpg", np.zeros((*indices.shape, 3), np.uint8), sample)
    maps.close()
    return cv2.imread(str(folder / "maps/a.png"), cv2.IMREAD_UNCHANGED)


def test_a_map_holds_the_class_of_each_pixel(tmp_path, capsys):
    indices = torch.zeros(48, 64, dtype=torch.long)
    indices[:, :16] = 2
    assert (maps_of(3, indices, tmp_path) == indices.numpy()).all()
    assert "pixels of class 0 75.0 %, class 2 25.0 %" in capsys.readouterr().out
    drawn = cv2.imread(str(tmp_path / "a.png"))
    assert drawn[40, 8].tolist() == [255, 0, 2]  # BGR; away from the names of the classes


def test_a_map_of_many_classes_has_16_bits(tmp_path, capsys):
    written = maps_of(300, torch.full((48, 64), 290), tmp_path)
    assert written.dtype == np.uint16 and (written == 290).all()
    assert "pixels of class 290 100.0 %" in capsys.readouterr().out
