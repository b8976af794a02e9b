# SPDX-License-Identifier: Apache-2.0
"""What a hostile checkpoint holds."""

CODE = "open('marker', 'w').close()"


class Call:
    """Pickled as the call of a function."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call
