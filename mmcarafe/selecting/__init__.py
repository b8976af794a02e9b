# SPDX-License-Identifier: Apache-2.0
"""How components of any project select an upsampler, without a copy of their ``forward``; needs mmengine."""
