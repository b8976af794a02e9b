_base_ = ["mmdet::htc/htc_r50_fpn_1x_coco.py", "../_base_/mmcarafe.py"]

model = dict(
    neck=dict(upsample_cfg=dict(type="CARAFE")),
    roi_head=dict(
        # a list replaces the base's: one head for each stage
        mask_head=[dict(head, upsample_cfg=dict(type="CARAFE")) for head in _base_.model.roi_head.mask_head]
    ),
)
