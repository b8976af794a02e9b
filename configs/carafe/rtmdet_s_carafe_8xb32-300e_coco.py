_base_ = ["mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py", "../_base_/mmcarafe.py"]

model = dict(neck=dict(upsample_cfg=dict(type="CARAFE")))
