# The recipe of docs/evidence.md: a small Mask R-CNN from scratch, nearest interpolation in the neck and a
# deconvolution in the mask head as in mmdet. Images are 256 x 256 to 320 x 320.
_base_ = "../carafe/mask-rcnn_r18_fpn_shapes.py"

custom_imports = dict(
    imports=["mmcarafe.models", "mmcarafe.comparison.boundary_metric"], allow_failed_imports=False
)

data_root = "data/nuclei/"
metainfo = dict(classes=("nucleus",), palette=[(0, 130, 200)])

model = dict(
    # the smallest anchors have 12 pixels
    rpn_head=dict(anchor_generator=dict(scales=[3])),
    roi_head=dict(bbox_head=dict(num_classes=1), mask_head=dict(num_classes=1)),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=96)),
    ),
    # images have up to some hundred objects
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=300), rcnn=dict(max_per_img=100)),
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomCrop", crop_size=(224, 224)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale_factor=1.0),  # only notes the factor, which mmdet's heads ask for
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(
    batch_size=8,
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file="annotations/instances_train.json",
        data_prefix=dict(img="train/"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        ann_file="annotations/instances_val.json",
        data_prefix=dict(img="val/"),
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader
# A boundary of 4 or 5 pixels: half of the objects are less than 16 pixels wide, and with the usual 0.02 their
# boundary would be all of them.
val_evaluator = dict(
    type="BoundaryCocoMetric", dilation_ratio=0.01, ann_file=data_root + "annotations/instances_val.json"
)
test_evaluator = val_evaluator

train_cfg = dict(val_interval=3)  # of 7 epochs; the last is always evaluated
optim_wrapper = dict(optimizer=dict(lr=0.002))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
