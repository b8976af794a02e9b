# SPDX-License-Identifier: Apache-2.0
"""What a user's input is refused with; each message is one sentence that says what to do."""


class InputError(ValueError):
    """Something the user gave cannot be used; the commands end in the message alone."""


class UpsampleConfigError(InputError):
    """An ``upsample_cfg`` names no known type, or arguments that its type does not take."""


class DownsampleConfigError(InputError):
    """A ``downsample_cfg`` names no known type, or arguments that its type does not take."""


class DataError(InputError):
    """A data set cannot be used."""


class ImageError(DataError):
    """An image of a data set cannot be used; the message names its file and id."""


class AnnotationError(DataError):
    """Annotations of a data set cannot be used; the message names their file or image, and the reason."""


class CheckpointError(InputError):
    """A file cannot be read as a checkpoint; the message says why and what to do, but not the file's name."""


class UnsupportedError(InputError):
    """A detector is of a kind that is not exported; the message says which are."""


class CheckpointWriteError(OSError):
    """A checkpoint could not be written, for example because the disk is full."""
