# The recipe with a bottom-up path behind the top-down one, for comparisons of downsampling.
_base_ = "mask-rcnn_r18_fpn_nuclei.py"

model = dict(neck=dict(type="PAFPN"))
# one by one: images of several sizes would be padded to the largest of a batch
val_dataloader = dict(batch_size=1)
test_dataloader = val_dataloader
