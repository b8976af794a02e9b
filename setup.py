# SPDX-License-Identifier: Apache-2.0
"""Package metadata; tool settings are in pyproject.toml, tested pins in requirements/."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(
    r"__version__ = \"(.+)\"", (ROOT / "mmcarafe/__init__.py").read_text(encoding="utf-8")
).group(1)

setup(
    name="mmcarafe",
    version=VERSION,
    description="CARAFE upsampling for MMDetection, on CPU and GPU",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["mmcarafe", "mmcarafe.*"]),
    python_requires=">=3.10",
    install_requires=["torch>=2.4"],
    extras_require={
        # mmdet 3.3.0 refuses mmcv 2.2 and newer
        "openmmlab": ["mmengine>=0.10.4", "mmcv>=2.0.0,<2.2.0", "mmdet>=3.3.0"],
        # maintained forks that install the same import names; not together with "openmmlab"
        "onedl": ["onedl-mmengine>=0.10.8", "onedl-mmcv>=2.3.0", "onedl-mmdetection>=3.4.0"],
        "tests": ["pytest>=8", "hypothesis>=6", "ruff"],
    },
)
