# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with the images of a data set; the other kinds are in kinds.py."""

from mmcarafe.datasets.checks.kind import SKIPPED, Kind

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
