_base_ = ["mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py", "../_base_/mmcarafe.py"]

model = dict(panoptic_head=dict(pixel_decoder=dict(upsample_cfg=dict(type="CARAFE"))))
