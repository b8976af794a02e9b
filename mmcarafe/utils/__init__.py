# SPDX-License-Identifier: Apache-2.0
"""What all rooms share: the command line, files, Markdown, mmengine's registries."""
