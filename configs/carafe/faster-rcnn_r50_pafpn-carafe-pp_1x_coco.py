_base_ = "faster-rcnn_r50_pafpn-carafe_1x_coco.py"

model = dict(neck=dict(downsample_cfg=dict(type="CARAFE")))
