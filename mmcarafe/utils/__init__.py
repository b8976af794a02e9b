# SPDX-License-Identifier: Apache-2.0
"""Helpers of all rooms: the command line, files, Markdown, mmengine's registries."""
