_base_ = [
    "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py",
    "../_base_/mmcarafe_segmentation.py",
]

model = dict(decode_head=dict(upsample_cfg=dict(type="CARAFE")))
