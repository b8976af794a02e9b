# SPDX-License-Identifier: Apache-2.0
"""Data sets: reading them, checking them, drawing one."""
