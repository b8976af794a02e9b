# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a COCO data set: what becomes of it, and what to do, each said once.

``python -m mmcarafe.datasets.checks.kinds`` prints the tables of docs/datasets.md.
"""

from mmcarafe.datasets.checks.image_kinds import IMAGES
from mmcarafe.datasets.checks.kind import REFUSED, Kind

CONFIG = {
    "class-count": Kind(
        "a head has another number of classes than a data set of the config",
        "refused: DataError before the first step", "refused: DataError before the first image",
        "set num_classes of every head that is named, or metainfo.classes of the data set",
    ),
    "classes-string": Kind(
        "metainfo.classes is a string, and no file of names has that name",
        "refused: DataError before the first step", "refused: DataError before the first image",
        "write a list of names; a single name needs a comma: classes=('name',)",
    ),
    "dataset-unknown": Kind(
        "a class of data sets that reads or filters annotations in its own way",
        "used: as that class does; what is said here holds for CocoDataset", "used: as in training",
        "compare its load_data_list, parse_data_info and filter_data with those of CocoDataset",
    ),
    "step-unknown": Kind(
        "a step of the training pipeline that is none of mmdet's or mmcv's, or no LoadImageFromFile",
        "used: as that step does; what is said here holds without it", "-",
        "see what it makes of images and annotations",
    ),
}  # fmt: skip

FILE = {
    "no-images": Kind(
        "no image in the file", "refused: AnnotationError before the first step",
        "refused: AnnotationError", "name another file",
    ),
    "nothing-to-train": Kind(
        "filter_cfg leaves no image", "refused: AnnotationError before the first step",
        "used: without objects AP is -1",
        "add annotations of the config's classes, or change filter_cfg",
    ),
    "field": Kind(
        "a field is missing or of a wrong type",
        "refused: AnnotationError before the first step, unless the value is mistaken for another",
        "refused: as in training", "write the field as COCO defines it",
    ),
    "id-mixed": Kind(
        "ids of images or categories are numbers and strings", "used: but 1 and '1' are different ids",
        "refused: AnnotationError after all images are through", "number with integers, as COCO does",
    ),
    "id-type": Kind(
        "an image's or category's id is not an integer", "used: but 1 and '1' are different ids",
        "used: as in training", "number with integers, as COCO does",
    ),
    "annotation-id-type": Kind(
        "an annotation's id is not an integer", "used: as any other",
        "refused: AnnotationError once the object is found, unless float() reads it",
        "number with integers from 1",
    ),
    "annotation-id-0": Kind(
        "an annotation's id is 0", "used: as any other", "wrong: pycocotools takes a match with 0 for none",
        "number from 1",
    ),
    "image-id-twice": Kind(
        "an image id twice", "wrong: the last image gets the objects of all, the others none",
        "wrong: as in training", "give every image an id of its own",
    ),
    "image-file-twice": Kind(
        "a file is the image of two entries", "used: learnt twice, with each entry's own objects alone",
        "used: counted twice", "join the entries, or name the other's file",
    ),
    "annotation-id-twice": Kind(
        "an annotation id twice", "refused: AnnotationError before the first step",
        "refused: AnnotationError", "renumber the annotations",
    ),
    "category-id-twice": Kind(
        "a category id twice",
        "wrong: objects of all become the last one's class, or the others' names are lost",
        "wrong: as in training", "give every category an id of its own, and its annotations with it",
    ),
    "category-name-twice": Kind(
        "a category name twice", "wrong: labels shift; the last is one too many and is learnt as background",
        "wrong: scored by shifted labels", "join the two categories",
    ),
    "category-unknown": Kind(
        "an annotation's category is not in the file", "lost: dropped without a word", "lost: not counted",
        "add the category or correct category_id",
    ),
    "category-not-in-config": Kind(
        "a category is no class of the config", "lost: its objects are dropped without a word",
        "lost: its objects are not counted",
        "add its name to metainfo.classes (and to num_classes), or leave it out of the file",
    ),
    "class-not-in-file": Kind(
        "a class of the config is no category of the file",
        "wrong: labels of the classes after it shift by one",
        "refused: IndexError once the last label is found",
        "name the file's categories in metainfo.classes, or add the category without objects",
    ),
    "class-order": Kind(
        "categories in another order than the config's classes",
        "wrong: labels follow the file, names the config; files of other orders disagree",
        "wrong: scored by the file's order", "bring metainfo.classes into the order of the file",
    ),
}  # fmt: skip

OBJECTS = {
    "image-unknown": Kind(
        "an annotation of an image that is not in the file", "lost: dropped without a word",
        "lost: not counted", "add the image or correct image_id",
    ),
    "iscrowd": Kind(
        "iscrowd is missing, or neither 0 nor 1", "used: as 0 where it is missing or empty, else as a crowd",
        "refused: AnnotationError after all images are through", "write 0 or 1",
    ),
    "ignore": Kind(
        "marked as ignore", "skipped: as marked", "used: counted as any other",
        "none if it is meant; else remove ignore",
    ),
    "not-finite": Kind(
        "box or area is NaN or infinite", "wrong: dropped, or the loss becomes NaN",
        "wrong: never found, or of no size", "measure it again",
    ),
    "box-outside": Kind(
        "box outside the image", "lost: dropped without a word", "used: counts as missed",
        "x, y are the left upper corner in pixels; is the image's size right?",
    ),
    "box-over-edge": Kind(
        "box more than a pixel over the image's edge", "used: Resize clips it; without one it stays",
        "used: as written", "clip the box",
    ),
    "box-empty": Kind(
        "box less than a pixel wide or high", "lost: dropped without a word", "used: counts as missed",
        "bbox is x, y, width, height, not two corners",
    ),
    "area-empty": Kind(
        "area is 0 or negative", "lost: dropped without a word", "used: counts as a small object",
        "write the mask's area in pixels",
    ),
    "mask-missing": Kind(
        "no segmentation, in a config with masks", REFUSED, "refused: AnnotationError",
        "add the mask, or train a config without masks",
    ),
    "mask-malformed": Kind(
        "segmentation is neither polygons nor an RLE that can be decoded",
        REFUSED, "refused: AnnotationError",
        "a list of polygons [x1, y1, x2, ...], or counts and size as pycocotools encodes them",
    ),
    "mask-text": Kind(
        "a polygon or an RLE has strings for numbers",
        "used: as numbers; with poly2mask=False, TypeError once a polygon is flipped or resized",
        "used: as numbers",
        "write numbers",
    ),
    "polygon-part": Kind(
        "a polygon with fewer than six numbers or an odd count",
        "lost: it is left out; where no other is left, the object is ignored",
        "refused: AnnotationError where the first has four numbers; else used",
        "at least three points of x and y",
    ),
    "polygon-not-finite": Kind(
        "a polygon with NaN, infinity, points over a million pixels away, or an outline of more than that",
        "refused: pycocotools asks for memory, 50 bytes a pixel of outline, until the process is killed",
        "refused: as in training",
        "measure it again",
    ),
    "rle-incomplete": Kind(
        "an RLE without counts or size", "lost: the object is ignored", "refused: AnnotationError",
        "encode the mask with pycocotools",
    ),
    "rle-runs": Kind(
        "an RLE whose runs do not fill its size, are no integers, or that has none",
        "wrong: runs are cut to integers; the rest of the mask is whatever memory held",
        "wrong: as in training", "encode the mask with pycocotools",
    ),
    "rle-negative": Kind(
        "an RLE with a negative run", REFUSED,
        "refused: AnnotationError; where the pipeline loads no masks, pycocotools hangs or ends the process",
        "encode the mask with pycocotools",
    ),
    "rle-size": Kind(
        "an RLE of another size than the image", REFUSED, "refused: AnnotationError",
        "size is height, width; is the image's size right?",
    ),
    "rle-not-polygon": Kind(
        "an RLE, in a config with poly2mask=False", "lost: the object is ignored; crowds are anyway",
        "used: as written", "poly2mask=True",
    ),
    "mask-empty": Kind(
        "mask without a pixel in the image", "wrong: an object with an empty mask is learnt",
        "used: its mask counts as missed", "draw it again or remove the annotation",
    ),
}  # fmt: skip

KINDS = CONFIG | FILE | OBJECTS | IMAGES


def markdown() -> str:
    """All kinds as tables for the guide."""
    parts = []
    sections = {"The config": CONFIG, "The file": FILE, "Objects": OBJECTS, "Images": IMAGES}
    for title, kinds in sections.items():
        parts += [
            f"### {title}",
            "",
            "| problem | training | evaluation | demo | what to do |",
            "| --- " * 5 + "|",
        ]
        for name, kind in kinds.items():
            cells = (f"`{name}`: {kind.title}", kind.training, kind.evaluation, kind.demo, kind.remedy)
            parts.append(f"| {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    print(markdown())
