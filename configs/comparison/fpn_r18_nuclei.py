# Nuclei as a map of two classes: the Semantic FPN of the shapes, bilinear in its head and nearest in its neck
# as in mmsegmentation. Images are 256 x 256 to 320 x 320; maps are made of COCO's masks while they are read.
_base_ = "../segmentation/fpn_r18_shapes.py"

custom_imports = dict(
    imports=["mmcarafe.segmentation", "mmcarafe.comparison.boundary_f_metric"], allow_failed_imports=False
)

data_root = "data/nuclei/"
metainfo = dict(_delete_=True, classes=("background", "nucleus"), palette=[(40, 40, 40), (0, 130, 200)])

# images of a test have several sizes
model = dict(data_preprocessor=dict(test_cfg=dict(size_divisor=32)), decode_head=dict(num_classes=2))

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadCocoMap", ann_file=data_root + "annotations/instances_train.json"),
    dict(type="RandomCrop", crop_size=(224, 224)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadCocoMap", ann_file=data_root + "annotations/instances_val.json"),
    dict(type="PackSegInputs"),
]
dataset = dict(data_root=data_root, metainfo=metainfo, img_suffix=(".jpg", ".png"))
train_dataloader = dict(
    dataset=dict(**dataset, data_prefix=dict(_delete_=True, img_path="train"), pipeline=train_pipeline)
)
val_dataloader = dict(
    batch_size=1,
    dataset=dict(**dataset, data_prefix=dict(_delete_=True, img_path="val"), pipeline=test_pipeline),
)
test_dataloader = val_dataloader

val_evaluator = dict(type="BoundaryIoUMetric")
test_evaluator = val_evaluator

train_cfg = dict(val_interval=3)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=1))
