_base_ = "rtmdet_s_carafe_8xb32-300e_coco.py"

model = dict(neck=dict(downsample_cfg=dict(type="CARAFE")))
