# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: read as data only, written whole, compared with a model, resumed from, converted.

Importing it allows torch's ``weights_only`` mode the types that mmengine writes.
"""

from .allow_list import allow_mmengine_types

allow_mmengine_types()
