# SPDX-License-Identifier: Apache-2.0
"""The data that a config names is looked for before a training, where it is on this machine."""

import pytest
from mmengine.config import Config

from mmcarafe.datasets.configured import check_data
from mmcarafe.errors import InputError


def config(**settings) -> Config:
    dataset = dict(ann_file="ann.json", data_root="nowhere", **settings)
    return Config(
        dict(
            val_dataloader=dict(dataset=dict(type="RepeatDataset", dataset=dataset)),
            val_evaluator=[dict(ann_file="nowhere/ann.json", **settings)],
        )
    )


@pytest.mark.parametrize("settings", [{}, dict(backend_args=None), dict(backend_args=dict(backend="local"))])
def test_missing_data_is_named(settings):
    with pytest.raises(InputError, match=r"nowhere/ann\.json does not exist; link your data set there"):
        check_data(config(**settings), "val")


def test_what_another_file_backend_reads_is_left_to_it():
    mapped = dict(backend="petrel", path_mapping={"nowhere/": "s3://bucket/"})
    check_data(config(backend_args=mapped), "val")
    for remote in (dict(backend_args=mapped), dict(pipeline=[dict(type="Load", backend_args=mapped)])):
        cfg = config()
        cfg.val_dataloader.dataset.dataset.update(remote)
        with pytest.raises(InputError, match=r"val_evaluator\.ann_file"):
            check_data(cfg, "val")
