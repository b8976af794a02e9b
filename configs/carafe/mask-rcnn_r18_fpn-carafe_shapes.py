_base_ = "mask-rcnn_r18_fpn_shapes.py"

model = dict(
    neck=dict(upsample_cfg=dict(type="CARAFE")),
    # as many as the head's channels
    roi_head=dict(mask_head=dict(upsample_cfg=dict(type="CARAFE", compressed_channels=32))),
)
