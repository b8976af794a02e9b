# SPDX-License-Identifier: Apache-2.0
"""Detectors as programs of fixed sizes, and their export to ONNX and ``torch.export``."""
