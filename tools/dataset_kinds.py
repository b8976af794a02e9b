# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a COCO data set: what becomes of it, and what to do, each said once.

``python tools/dataset_kinds.py`` prints the tables of docs/datasets.md.
"""

from typing import NamedTuple

NOTES = ("used", "skipped", "-")
DEMO = "-"  # the demo reads images, not annotations


class Kind(NamedTuple):
    """A kind of problem; what becomes of it starts with used, skipped, lost, wrong or refused."""

    title: str
    training: str
    evaluation: str
    remedy: str
    demo: str = DEMO

    @property
    def severity(self) -> str:
        """``error`` where a run stops, loses objects or learns what is not there; else ``note``."""
        first = {text.split(":")[0] for text in (self.training, self.evaluation)}
        return "note" if first <= set(NOTES) else "error"


SKIPPED = "skipped: named and counted at the end"

FILE = {
    "no-images": Kind(
        "no image in the file", "refused: nothing to load", "refused: nothing to load", "name another file"
    ),
    "nothing-to-train": Kind(
        "filter_cfg leaves no image", "refused: nothing to load", "used: without objects AP is -1",
        "add annotations of the config's classes, or change filter_cfg",
    ),
    "field": Kind(
        "a field is missing or of a wrong type",
        "refused: by KeyError or TypeError before the first step, unless the value is mistaken for another",
        "refused: as in training", "write the field as COCO defines it",
    ),
    "id-mixed": Kind(
        "ids of images or categories are numbers and strings", "used: but 1 and '1' are different ids",
        "refused: TypeError after all images are through", "number with integers, as COCO does",
    ),
    "id-type": Kind(
        "an image's or category's id is not an integer", "used: but 1 and '1' are different ids",
        "used: as in training", "number with integers, as COCO does",
    ),
    "annotation-id-type": Kind(
        "an annotation's id is not an integer", "used: as any other",
        "refused: ValueError once the object is found, unless float() reads it",
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
    "annotation-id-twice": Kind(
        "an annotation id twice", "refused: AssertionError before the first step",
        "refused: AssertionError", "renumber the annotations",
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
        "refused: KeyError or TypeError after all images are through", "write 0 or 1",
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
        "no segmentation, in a config with masks", "refused: KeyError 'mask' when its image's turn comes",
        "refused: KeyError 'mask'", "add the mask, or train a config without masks",
    ),
    "mask-malformed": Kind(
        "segmentation is neither polygons nor an RLE that can be decoded",
        "refused: TypeError or ValueError when its image's turn comes", "refused: TypeError or ValueError",
        "a list of polygons [x1, y1, x2, ...], or counts and size as pycocotools encodes them",
    ),
    "polygon-part": Kind(
        "a polygon with fewer than six numbers or an odd count",
        "lost: it is left out; where no other is left, the object is ignored",
        "refused: TypeError where the first has four numbers; else used", "at least three points of x and y",
    ),
    "polygon-not-finite": Kind(
        "a polygon with NaN, infinity or points over a million pixels away",
        "refused: pycocotools asks for memory, until the process is killed", "refused: as in training",
        "measure it again",
    ),
    "rle-incomplete": Kind(
        "an RLE without counts or size", "lost: the object is ignored", "refused: KeyError",
        "encode the mask with pycocotools",
    ),
    "rle-runs": Kind(
        "an RLE whose runs do not fill its size, or that has none",
        "wrong: the rest of the mask is whatever memory held", "wrong: as in training",
        "encode the mask with pycocotools",
    ),
    "rle-size": Kind(
        "an RLE of another size than the image", "refused: ValueError when its image's turn comes",
        "refused: ValueError", "size is height, width; is the image's size right?",
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

IMAGES = {
    "image-empty": Kind(
        "image without objects", "skipped: with filter_empty_gt; else used as background",
        "used: whatever is found is wrong",
        "none; filter_empty_gt=False trains on it",
    ),
    "image-crowd-only": Kind(
        "image with crowds only", "used: nothing to find, the crowds' regions are ignored",
        "used: as in training", "none",
    ),
    "image-below-min-size": Kind(
        "image with objects, smaller than filter_cfg.min_size",
        "lost: the image is dropped without a word", "used: as any other",
        "lower filter_cfg.min_size, or leave the image out",
    ),
    "image-missing": Kind(
        "no such image", "refused: ImageError with file and id, when its turn comes", "refused: ImageError",
        "check --img-dir and file_name", "refused: no image of that name",
    ),
    "image-unreadable": Kind(
        "no bytes, truncated, or not an image OpenCV reads",
        "refused: ImageError with file and id, when its turn comes",
        "refused: ImageError", "fetch or convert it again", SKIPPED,
    ),
    "image-too-large": Kind(
        "more pixels than OpenCV reads (2^30)", "refused: ImageError with file and id, when its turn comes",
        "refused: ImageError",
        "cut it into tiles", SKIPPED,
    ),
    "image-large": Kind(
        "more than 50 million pixels; not decoded here",
        "used: 3 bytes a pixel, and 1 for every object's mask",
        "used: and 1 byte a pixel for every mask found", "cut it into tiles", "used: where memory is enough",
    ),
    "image-size": Kind(
        "pixels of another size than width and height say",
        "wrong: boxes and polygons lie elsewhere; an RLE is refused",
        "wrong: as in training", "correct width and height; an image turned by EXIF is annotated upright",
        "used: as it is",
    ),
    "image-rotated": Kind(
        "turned or mirrored by EXIF", "used: upright, whose size width and height are", "used: upright",
        "see that the annotations are of the upright image, or remove the EXIF tag", "used: upright",
    ),
    "image-16-bit": Kind(
        "16 bits a channel", "used: the upper 8 bits; values below 256 become 0", "used: as in training",
        "stretch dark images to the full range before", "used: as in training",
    ),
    "image-cmyk": Kind(
        "CMYK", "used: turned into RGB without its colour profile", "used: as in training",
        "none; convert it for exact colours", "used: as in training",
    ),
    "image-grey": Kind(
        "grey", "used: three equal channels", "used: as in training", "none", "used: as in training",
    ),
    "image-alpha": Kind(
        "transparency", "used: without it, hidden colours show", "used: as in training",
        "lay it over a background before", "used: as in training",
    ),
    "image-one-wide": Kind(
        "one pixel wide, in a config that flips without a Resize",
        "refused: ValueError (negative stride) once it is flipped",
        "used: as any other", "leave it out or set filter_cfg.min_size", "used: as any other",
    ),
    "image-thin": Kind(
        "so thin that Resize leaves no pixel",
        "refused: ImageError, where the training pipeline resizes so", "refused: ImageError",
        "cut it into tiles or leave it out", SKIPPED,
    ),
}  # fmt: skip

KINDS = FILE | OBJECTS | IMAGES


def markdown() -> str:
    """All kinds as tables for the guide."""
    parts = []
    for title, kinds in (("The file", FILE), ("Objects", OBJECTS), ("Images", IMAGES)):
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
