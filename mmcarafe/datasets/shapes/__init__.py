# SPDX-License-Identifier: Apache-2.0
"""A small instance segmentation data set that is drawn."""
