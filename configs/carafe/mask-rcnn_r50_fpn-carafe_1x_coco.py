_base_ = "mask-rcnn_r50_fpn-carafe_neck-only_1x_coco.py"

model = dict(roi_head=dict(mask_head=dict(upsample_cfg=dict(type="CARAFE"))))
