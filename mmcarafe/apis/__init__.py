# SPDX-License-Identifier: Apache-2.0
"""Detectors from config and checkpoint, and what they find in images and videos."""
