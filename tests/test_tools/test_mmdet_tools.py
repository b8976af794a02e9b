# SPDX-License-Identifier: Apache-2.0
"""mmdet's own tools run the configs of this package, from training to what becomes of its results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mmdet
import pytest

pytestmark = pytest.mark.slow
TOOLS = Path(mmdet.__file__).parent / ".mim/tools"
ROOT = Path(__file__).parents[2]
CONFIG = f"""
_base_ = {str(ROOT / "configs/carafe/mask-rcnn_r18_fpn-carafe_shapes.py")!r}
model = dict(
    backbone=dict(base_channels=8, init_cfg=dict(_delete_=True, type="Kaiming", layer="Conv2d")),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
    rpn_head=dict(in_channels=32, feat_channels=32),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        mask_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, fc_out_channels=32),
        mask_head=dict(in_channels=32, conv_out_channels=32, num_convs=1),
    ),
    test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=4)),
)
train_dataloader = dict(batch_size=2)
test_evaluator = dict(outfile_prefix="found")
train_cfg = dict(max_epochs=1)
"""
# the same data set for a detector whose anchors mmdet can choose
ANCHORS = """
_base_ = "config.py"
model = dict(bbox_head=dict(anchor_generator=dict(type="YOLOAnchorGenerator", base_sizes=[[(8, 8)]])))
"""
# each tool's command line, and what it writes
RUNS = {
    "train": ("train.py config.py --work-dir work", "work/epoch_1.pth"),
    "resume": (
        "train.py config.py --work-dir work --resume --cfg-options train_cfg.max_epochs=2", "work/epoch_2.pth"
    ),
    "test": (
        "test.py config.py work/epoch_1.pth --work-dir test --out found.pkl --show-dir shown",
        "test/*/shown/*.png",
    ),
    "test_tracking": (
        "test_tracking.py config.py --checkpoint work/epoch_1.pth --work-dir tracking", "tracking/*/*.json"
    ),
    "analyze_results": (
        "analysis_tools/analyze_results.py config.py found.pkl results --topk 1", "results/good/*.png"
    ),
    "benchmark_data_set": (
        "analysis_tools/benchmark.py config.py --task dataset --max-iter 1 --num-warmup 0 --work-dir speed",
        "speed/*.log",
    ),
    "benchmark_loader": (
        "analysis_tools/benchmark.py config.py --max-iter 1 --num-warmup 0 --work-dir speed", "speed/*.log"
    ),
    "browse_dataset": (
        "analysis_tools/browse_dataset.py config.py --output-dir browsed --not-show", "browsed/*.png"
    ),
    "confusion_matrix": ("analysis_tools/confusion_matrix.py config.py found.pkl matrix", "matrix/*.png"),
    "eval_metric": ("analysis_tools/eval_metric.py config.py found.pkl", ""),
    "get_flops": ("analysis_tools/get_flops.py config.py --num-images 1", ""),
    "optimize_anchors": (
        "analysis_tools/optimize_anchors.py anchors.py --algorithm k-means --iters 2 --device cpu "
        "--input-shape 160 160 --output-dir .",
        "anchor_optimize_result.json",
    ),
    "test_robustness": (
        "analysis_tools/test_robustness.py config.py work/epoch_1.pth --work-dir robust --out robust.pkl "
        "--corruptions None",
        "robust_results.pkl",
    ),
    "print_config": ("misc/print_config.py config.py --save-path ./printed.py", "printed.py"),
    "publish_model": (
        "model_converters/publish_model.py work/epoch_1.pth published.pth", "published-*.pth"
    ),
}  # fmt: skip
# one process for all, which imports mmdet once; a tool that has ended leaves its name
DRIVER = """
import json, runpy, sys
from pathlib import Path
for name, (script, *args) in json.loads(Path("runs.json").read_text()).items():
    sys.argv = [script, *args]
    runpy.run_path(script, run_name="__main__")
    Path(name).with_suffix(".ended").touch()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where all tools have been run, up to the first that failed; what they print is in output.txt."""
    path = tmp_path_factory.mktemp("mmdet")
    shapes = [
        ROOT / "tools/dataset_tools/make_shapes_dataset.py",
        "data/shapes",
        "--train",
        "4",
        "--val",
        "2",
    ]
    subprocess.run([sys.executable, *shapes], cwd=path, check=True, capture_output=True)
    (path / "config.py").write_text(CONFIG)
    (path / "anchors.py").write_text(ANCHORS)
    runs = {name: f"{TOOLS}/{command}".split() for name, (command, _) in RUNS.items()}
    (path / "runs.json").write_text(json.dumps(runs))
    settings = dict(
        PYTHONPATH=str(TOOLS.parent), MPLBACKEND="agg", OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES=""
    )
    with open(path / "output.txt", "w") as output:
        subprocess.run(
            [sys.executable, "-c", DRIVER], cwd=path, env=os.environ | settings, stdout=output, stderr=output
        )
    return path


@pytest.mark.parametrize("name", RUNS)
def test_mmdets_tool_runs(folder, name):
    assert (folder / f"{name}.ended").exists(), (folder / "output.txt").read_text()[-3000:]
    _, written = RUNS[name]
    assert not written or list(folder.glob(written))


def test_what_mmdets_tools_find(folder):
    pictures = [path.name for path in sorted((folder / "data/shapes/val2017").iterdir())]
    assert sorted(path.name for path in folder.glob("test/*/shown/*")) == pictures  # where mmdet's help says
    best, worst = folder.glob("results/good/*"), folder.glob("results/bad/*")
    assert sorted(path.name[:12] for path in (*best, *worst)) == [name[:12] for name in pictures]
