# SPDX-License-Identifier: Apache-2.0
"""What mmengine saves can be loaded in torch's safe mode."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from mmengine.runner import CheckpointLoader

import mmcarafe.models  # noqa: F401  allow-lists mmengine's types


def mmengine_checkpoint():
    """The parts of a checkpoint of mmengine's Runner, with its own classes."""
    model = torch.nn.Linear(2, 2)
    wrapper = OptimWrapper(torch.optim.AdamW(model.parameters()))
    wrapper.update_params(model(torch.ones(1, 2)).sum())
    hub = MessageHub("checkpoint test")
    hub.update_scalar("train/loss", torch.tensor(0.5))
    hub.update_scalar("train/lr", np.float64(0.02))
    hub.update_scalar("train/data_time", np.float32(0.25), count=3)
    hub.update_info("last_score", np.float32(0.25))
    hub.update_scalar("val/coco/bbox_mAP", 0.375)
    hub.update_info("best_score", np.float64(0.375))
    hub.update_info("iter", np.int64(7))
    hub.update_info("loop_stage", "train")
    return dict(
        meta=dict(epoch=1, iter=7, cfg="model = dict()", seed=0, dataset_meta=dict(CLASSES=("a", "b"))),
        state_dict=model.state_dict(),
        message_hub=hub.state_dict(),
        optimizer=wrapper.state_dict(),
        param_schedulers=[dict(last_step=7, _last_value=[np.float64(0.02)], begin=0, end=12)],
        arrays=[np.arange(3), np.ones((2, 2), dtype=np.float32)],
    )


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "epoch_1.pth"
    torch.save(mmengine_checkpoint(), path)
    return path


@pytest.mark.parametrize(
    "load",
    [
        lambda path: torch.load(path, weights_only=True),
        lambda path: CheckpointLoader.load_checkpoint(str(path)),
    ],
    ids=["torch", "mmengine"],
)
def test_a_checkpoint_of_mmengine_loads_complete(path, load):
    loaded, saved = load(path), mmengine_checkpoint()
    assert loaded.keys() == saved.keys()
    assert loaded["meta"] == saved["meta"]
    for name, history in saved["message_hub"]["log_scalars"].items():
        values, counts = loaded["message_hub"]["log_scalars"][name].data
        assert (values.tolist(), counts.tolist()) == tuple(array.tolist() for array in history.data)
    assert loaded["message_hub"]["runtime_info"] == saved["message_hub"]["runtime_info"]
    assert loaded["param_schedulers"] == saved["param_schedulers"]
    for actual, expected in zip(loaded["arrays"], saved["arrays"], strict=True):
        assert actual.dtype == expected.dtype
        assert np.array_equal(actual, expected)


def test_without_this_package_it_is_refused(path):
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with pytest.raises(pickle.UnpicklingError, match="HistoryBuffer"):
            torch.load(path, weights_only=True)
    finally:
        torch.serialization.add_safe_globals(allowed)


def test_a_checkpoint_written_under_numpy_1_loads(path, tmp_path):
    """numpy 1 called the module of its scalars numpy.core; the pickle names it."""
    with zipfile.ZipFile(path) as new, zipfile.ZipFile(tmp_path / "old.pth", "w") as old:
        for name in new.namelist():
            data = new.read(name)
            if name.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in data
                data = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            old.writestr(name, data)
    assert torch.load(tmp_path / "old.pth", weights_only=True)["meta"] == mmengine_checkpoint()["meta"]
