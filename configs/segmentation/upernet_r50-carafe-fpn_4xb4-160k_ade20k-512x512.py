_base_ = ["mmseg::upernet/upernet_r50_4xb4-160k_ade20k-512x512.py", "../_base_/mmcarafe_segmentation.py"]

model = dict(decode_head=dict(upsample_cfg=dict(type="CARAFE"), upsample_in=["fpn"]))
