_base_ = ["mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py", "../_base_/mmcarafe.py"]

model = dict(
    neck=dict(upsample_cfg=dict(type="CARAFE")),
    semantic_head=dict(upsample_cfg=dict(type="CARAFE")),
    roi_head=dict(mask_head=dict(upsample_cfg=dict(type="CARAFE"))),
)
