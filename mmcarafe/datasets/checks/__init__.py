# SPDX-License-Identifier: Apache-2.0
"""Checks that find what is wrong with a COCO data set before a run."""
