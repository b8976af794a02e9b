# SPDX-License-Identifier: Apache-2.0
"""Do what export.py does, under the name that it had while ONNX was the only format."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).with_name("export.py")), run_name="__main__")
