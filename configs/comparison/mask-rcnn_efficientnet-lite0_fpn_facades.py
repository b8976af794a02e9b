# The recipe of docs/evidence.md on photographs of facades: 320 x 320, ten classes.
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

model = dict(roi_head=dict(bbox_head=dict(num_classes=10), mask_head=dict(num_classes=10)))
train_dataloader = dict(dataset=dataset)
val_dataloader = dict(dataset=dataset)
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/instances_val.json")
test_evaluator = val_evaluator
