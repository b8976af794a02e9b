_base_ = ["mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py", "../_base_/mmcarafe.py"]

model = dict(
    neck=dict(upsample_cfg=dict(type="CARAFE")),
    roi_head=dict(mask_head=dict(upsample_cfg=dict(type="CARAFE"))),
)
