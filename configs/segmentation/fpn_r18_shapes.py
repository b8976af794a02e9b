# Semantic FPN small enough to train from scratch in minutes on two cores (ResNet-18 of half the usual width):
# the baseline for its CARAFE twin.
_base_ = [
    "mmseg::_base_/models/fpn_r50.py",
    "mmseg::_base_/default_runtime.py",
    "../_base_/shapes_semantic.py",
    "../_base_/schedule_7e.py",
    "../_base_/mmcarafe_segmentation.py",
]

norm_cfg = dict(_delete_=True, type="BN")
model = dict(
    data_preprocessor=dict(size_divisor=32),
    pretrained=None,
    backbone=dict(type="ResNet", depth=18, base_channels=32, norm_cfg=norm_cfg),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    decode_head=dict(in_channels=[64] * 4, channels=64, num_classes=7, norm_cfg=norm_cfg),
)

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=20),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="SegVisualizationHook"),
)
log_processor = dict(by_epoch=True)
