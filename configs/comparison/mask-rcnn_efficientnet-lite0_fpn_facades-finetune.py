# Two epochs more for the trained detectors of the recipe on facades, as docs/where.md has it: a tenth of the
# learning rate, and ten times as much for an upsampler that is new. load_from is what the study leaves of
# each seed.
_base_ = "mask-rcnn_efficientnet-lite0_fpn_facades.py"

load_from = "work_dirs/evidence_facades/config_ac0d935ba014/seed-{seed}/epoch_12.pth"
train_cfg = dict(max_epochs=2, val_interval=1)
optim_wrapper = dict(
    optimizer=dict(lr=0.0001), paramwise_cfg=dict(custom_keys=dict(upsample_modules=dict(lr_mult=10)))
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", T_max=2, begin=0, end=2, by_epoch=True, convert_to_iter_based=True),
]
