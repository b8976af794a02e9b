# The recipe of docs/evidence.md on photographs of facades, 320 x 320, ten classes. Objects are windows of
# 25 pixels to facades that fill an image, so images are not cropped.
_base_ = "mask-rcnn_efficientnet-lite0_fpn_nuclei.py"

data_root = "data/facades/"
metainfo = dict(
    classes=(
        "facade",
        "window",
        "balcony-fence",
        "vegetation",
        "street",
        "car",
        "traffic-infrastructure",
        "fence",
        "non-building-infrastructure",
        "shop",
    ),
    palette=[
        (220, 20, 60),
        (255, 200, 0),
        (0, 130, 200),
        (60, 180, 75),
        (145, 30, 180),
        (245, 130, 48),
        (70, 240, 240),
        (240, 50, 230),
        (128, 128, 0),
        (0, 0, 128),
    ],
)
dataset = dict(data_root=data_root, metainfo=metainfo)

model = dict(
    rpn_head=dict(anchor_generator=dict(scales=[4])),
    roi_head=dict(bbox_head=dict(num_classes=10), mask_head=dict(num_classes=10)),
)
resize = dict(type="Resize", scale=(256, 256), keep_ratio=True)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    resize,
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    resize,
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(batch_size=4, dataset=dict(**dataset, pipeline=train_pipeline))
# one by one: images of several sizes would be padded to the largest of a batch
val_dataloader = dict(batch_size=1, dataset=dict(**dataset, pipeline=test_pipeline))
test_dataloader = val_dataloader
# objects are larger than nuclei: the boundary is as wide as in its paper
val_evaluator = dict(dilation_ratio=0.02, ann_file=data_root + "annotations/instances_val.json")
test_evaluator = val_evaluator

max_epochs = 12
train_cfg = dict(max_epochs=max_epochs, val_interval=3)
optim_wrapper = dict(optimizer=dict(lr=0.001))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(
        type="CosineAnnealingLR",
        T_max=max_epochs,
        begin=0,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
