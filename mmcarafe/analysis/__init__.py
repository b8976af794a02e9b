# SPDX-License-Identifier: Apache-2.0
"""Numbers about CARAFE in a model: recorded kernels, how uniform they are, what they gather."""

from .recording import Reassembly, entropy, record, trace

__all__ = ["Reassembly", "entropy", "record", "trace"]
