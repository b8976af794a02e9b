# The recipe with a bottom-up path behind the top-down one, for comparisons of downsampling.
_base_ = "mask-rcnn_r18_fpn_nuclei.py"

model = dict(neck=dict(type="PAFPN"))
