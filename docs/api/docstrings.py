# SPDX-License-Identifier: Apache-2.0
"""What the project's docstrings have that Markdown and griffe's parser of Google style do not know."""

import re

import griffe

REPLACED = [
    (r":(?:class|func|meth|mod):`~?([^`]+)`", r"`\1`"),  # Sphinx roles
    (r"^Example:$", "Examples:"),  # the section has the plural only
    (r"(?<![\w`(\[])(Tensor\[[^]]*\])(?!:)", r"`\1`"),  # shapes in prose: asterisks would mean emphasis
]


class ProjectDocstrings(griffe.Extension):
    """Rewrites docstrings before they are parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Rewrite that of one object."""
        if obj.docstring:
            for pattern, replacement in REPLACED:
                obj.docstring.value = re.sub(pattern, replacement, obj.docstring.value, flags=re.MULTILINE)
