# SPDX-License-Identifier: Apache-2.0
"""mmengine's LoggerHook for several processes, registered under its name."""

from mmengine import hooks
from mmengine.dist import master_only


class LoggerHook(hooks.LoggerHook):
    """mmengine's LoggerHook, but the first process alone writes the metrics of a test.

    mmengine's processes all write to one file at the same time, which now and then is no JSON then.
    """

    after_test_epoch = master_only(hooks.LoggerHook.after_test_epoch)
