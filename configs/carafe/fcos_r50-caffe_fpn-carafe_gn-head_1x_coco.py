_base_ = ["mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py", "../_base_/mmcarafe.py"]

model = dict(neck=dict(upsample_cfg=dict(type="CARAFE")))
