# SPDX-License-Identifier: Apache-2.0
"""The operator; imports nothing but torch."""

from .carafe import carafe

__all__ = ["carafe"]
