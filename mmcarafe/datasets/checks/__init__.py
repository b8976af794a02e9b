# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a COCO data set, found before a run."""
