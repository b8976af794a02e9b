# The embedded data set of tools/dataset_tools/make_shapes_dataset.py: 160 x 160 pixels, maps of the classes.
dataset_type = "BaseSegDataset"
data_root = "data/shapes/"
metainfo = dict(
    classes=("background", "disk", "star", "ring", "crescent", "gear", "wave"),
    palette=[
        (40, 40, 40),
        (220, 20, 60),
        (255, 200, 0),
        (0, 130, 200),
        (145, 30, 180),
        (60, 180, 75),
        (245, 130, 48),
    ],
)
dataset = dict(
    type=dataset_type, data_root=data_root, metainfo=metainfo, img_suffix=".png", reduce_zero_label=False
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(160, 160), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="RandomFlip", prob=0.0), dict(type="RandomFlip", prob=1.0)],
            [dict(type="LoadAnnotations")],
            [dict(type="PackSegInputs")],
        ],
    ),
]
# images this small load faster than a worker process can hand them over
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path="train2017", seg_map_path="semantic/train2017"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **dataset,
        data_prefix=dict(img_path="val2017", seg_map_path="semantic/val2017"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
