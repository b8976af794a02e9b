_base_ = "fpn_r18_shapes.py"

model = dict(neck=dict(upsample_cfg=dict(type="CARAFE")), decode_head=dict(upsample_cfg=dict(type="CARAFE")))
