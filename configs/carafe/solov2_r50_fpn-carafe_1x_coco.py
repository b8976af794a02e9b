_base_ = ["mmdet::solov2/solov2_r50_fpn_1x_coco.py", "../_base_/mmcarafe.py"]

model = dict(
    neck=dict(upsample_cfg=dict(type="CARAFE")),
    mask_head=dict(mask_feature_head=dict(upsample_cfg=dict(type="CARAFE"))),
)
