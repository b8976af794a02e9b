# SPDX-License-Identifier: Apache-2.0
"""Classes of mmdet and mmsegmentation told apart by name, so that neither has to be installed."""


def is_a(value: object, library: str, *names: str) -> bool:
    """Tell whether something is an instance of a class of mmdet's or mmsegmentation's, or of one derived.

    Args:
        value (object): anything.
        library (str): the package that the class is in, ``"mmdet"`` or ``"mmseg"``.
        names (str): of the classes.

    Example:
        >>> from mmdet.models import FPN
        >>> from mmcarafe.utils.classes import is_a
        >>> neck = FPN(in_channels=[4], out_channels=4, num_outs=1)
        >>> is_a(neck, "mmdet", "FPN"), is_a(neck, "mmseg", "FPN")
        (True, False)
    """
    return any(
        kind.__name__ in names and kind.__module__.partition(".")[0] == library
        for kind in type(value).__mro__
    )
