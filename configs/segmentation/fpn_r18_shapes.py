# Semantic FPN small enough to train from scratch in minutes on two cores (ResNet-18 of half the usual width):
# the baseline for its CARAFE twin.
_base_ = [
    "mmseg::_base_/models/fpn_r50.py",
    "mmseg::_base_/default_runtime.py",
    "../_base_/shapes_semantic.py",
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

max_epochs = 7
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=0.002, weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type="CosineAnnealingLR",
        T_max=max_epochs,
        begin=0,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=20),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="SegVisualizationHook"),
)
log_processor = dict(by_epoch=True)
randomness = dict(seed=0)
