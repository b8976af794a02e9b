_base_ = ["mmdet::yolox/yolox_s_8xb8-300e_coco.py", "../_base_/mmcarafe.py"]

model = dict(neck=dict(upsample_cfg=dict(type="CARAFE")))
