# Mask R-CNN small enough to train from scratch in minutes on two cores (ResNet-18 of half the usual width):
# the baseline for its CARAFE twin.
_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/default_runtime.py",
    "../_base_/shapes_instance.py",
    "../_base_/schedule_7e.py",
    "../_base_/mmcarafe.py",
]

# one sample a bin: the bins of boxes this small are about a feature pixel wide
roi_layer = dict(sampling_ratio=1)
norm_cfg = dict(type="BN")  # nothing is pretrained: normalised layers learn in fewer steps
rcnn_sampler = dict(num=48, pos_fraction=0.25)
model = dict(
    backbone=dict(depth=18, base_channels=32, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64, norm_cfg=norm_cfg),
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, roi_layer=roi_layer),
        bbox_head=dict(in_channels=64, fc_out_channels=256, num_classes=6),
        mask_roi_extractor=dict(out_channels=64, roi_layer=roi_layer),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=32, num_classes=6, norm_cfg=norm_cfg),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=rcnn_sampler),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(max_per_img=20)),
)

optim_wrapper = dict(optimizer=dict(lr=0.0015))
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(max_keep_ckpts=2))
