_base_ = ["mmdet::atss/atss_r50_fpn_1x_coco.py", "../_base_/mmcarafe.py"]

model = dict(neck=dict(upsample_cfg=dict(type="CARAFE")))
