# SPDX-License-Identifier: Apache-2.0
"""CARAFE upsampling for MMDetection: operator here, layer in ``mmcarafe.layers``, necks and heads in
``mmcarafe.models``.
"""

from .ops import carafe

__version__ = "0.1.0"
__all__ = ["__version__", "carafe"]
