_base_ = [
    "mmseg::unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py",
    "../_base_/mmcarafe_segmentation.py",
]

model = dict(backbone=dict(upsample_cfg=dict(type="CARAFE")))
