# The embedded data set with the boundary F-score, for comparisons.
_base_ = "../segmentation/fpn_r18_shapes.py"

custom_imports = dict(
    imports=["mmcarafe.segmentation", "mmcarafe.comparison.boundary_f_metric"], allow_failed_imports=False
)
val_evaluator = dict(type="BoundaryIoUMetric")
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
