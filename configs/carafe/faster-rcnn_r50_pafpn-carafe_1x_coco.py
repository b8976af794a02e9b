_base_ = ["mmdet::pafpn/faster-rcnn_r50_pafpn_1x_coco.py", "../_base_/mmcarafe.py"]

model = dict(neck=dict(upsample_cfg=dict(type="CARAFE")))
