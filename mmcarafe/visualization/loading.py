# SPDX-License-Identifier: Apache-2.0
"""Images as a config's test pipeline loads them, and as they are drawn."""

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.structures import BaseDataElement
from torch import Tensor

from mmcarafe.utils.files import check_pipeline


def image_pipeline(cfg: Config) -> tuple[Compose, Compose]:
    """Build a config's test pipeline in two parts: what loads an image file, and what is made of the image.

    Raises:
        InputError: the config has none.
    """
    check_pipeline(cfg)
    dataset = cfg.test_dataloader.dataset
    while "pipeline" not in dataset:  # of a wrapper the inner one's, or the first one's
        dataset = dataset.dataset if "dataset" in dataset else dataset.datasets[0]
    names = ("Annotation", "LoadCocoMap")  # of steps that load what is true of an image of the data set
    steps = [step for step in dataset.pipeline if not any(name in str(step["type"]) for name in names)]
    return Compose(steps[:1]), Compose(steps[1:])


def load_image(cfg: Config, path: str) -> tuple[Tensor, BaseDataElement]:
    """Return what the test pipeline of a config makes of an image file: the arguments of :func:`.look`."""
    load, change = image_pipeline(cfg)
    item = change(load(dict(img_path=path)) | dict(img_id=0))
    return item["inputs"], item["data_samples"]


def to_bgr(image: np.ndarray) -> np.ndarray:
    """Turn an image of any channels and type, [H, W] or [H, W, C], into uint8 [H, W, 3].

    Of more than three channels the first three are taken; values above 255 are scaled as a whole.

    Example:
        >>> import numpy as np
        >>> from mmcarafe.visualization import to_bgr
        >>> to_bgr(np.full((2, 5), 40.0)).shape, to_bgr(np.uint16([[65535]])).tolist()
        ((2, 5, 3), [[[255, 255, 255]]])
    """
    image = image.reshape(*image.shape[:2], -1)
    image = image[..., :3] if image.shape[2] >= 3 else image[..., :1].repeat(3, 2)
    if image.dtype != np.uint8:
        image = (image * (255 / max(255, image.max(initial=0)))).clip(0, 255).astype(np.uint8)
    return image
