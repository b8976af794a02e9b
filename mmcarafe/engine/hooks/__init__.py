# SPDX-License-Identifier: Apache-2.0
"""Hooks, a file each; ``mmcarafe.engine`` imports them, which registers them."""
