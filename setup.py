# SPDX-License-Identifier: Apache-2.0
"""Package metadata; tool settings are in pyproject.toml, tested pins in requirements/."""

import re
import shutil
import sysconfig
from pathlib import Path
from subprocess import CalledProcessError
from warnings import warn

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

try:  # an isolated build has no torch: the package then installs without its CPU kernels
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ImportError:
    BuildExtension = CppExtension = None
else:
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        raise SystemExit(
            f"mmcarafe needs torch 2.6 or newer, found {torch.__version__}: pip would replace it, and an "
            "mmcv that was built for it would no longer load; install a newer torch, and mmcv for it, first"
        )
    # what is built with a torch from 2.10 on, by its stable ABI, runs with each of them and any Python
    STABLE_ABI = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 10)
    LIMITED_API = STABLE_ABI and not sysconfig.get_config_var("Py_GIL_DISABLED")  # which has none yet

    class OptionalBuild(BuildExtension):
        """torch's build step; without a working compiler the package installs without the extension."""

        def build_extensions(self):
            """Build, or say why not; one of other sources is not kept then."""
            self.built.unlink(missing_ok=True)
            try:
                super().build_extensions()
            except (RuntimeError, OSError, CalledProcessError, CompileError) as error:
                warn(f"mmcarafe._C, the CPU kernels, is left out: {error}", stacklevel=1)

        def copy_extensions_to_source(self):
            """Copy to the checkout, where nothing stays of another build: Python may prefer it."""
            for old in (ROOT / "mmcarafe").glob("_C.*"):
                old.unlink()
            super().copy_extensions_to_source()

        @property
        def built(self) -> Path:
            """The library that is built, before it is copied."""
            return Path(self.build_lib, self.get_ext_filename("mmcarafe._C"))


ROOT = Path(__file__).parent
VERSION = re.search(
    r"__version__ = \"(.+)\"", (ROOT / "mmcarafe/__init__.py").read_text(encoding="utf-8")
).group(1)


class WithConfigsAndTools(build_py):
    """Adds the folder in which mim looks for a package's configs and tools."""

    def run(self):
        """Build, then copy; an editable installation has links."""
        super().run()
        target = (ROOT if self.editable_mode else Path(self.build_lib)) / "mmcarafe/.mim"
        if target.exists():
            shutil.rmtree(target)
        target.mkdir(parents=True)
        # these set up a checkout
        ignored = shutil.ignore_patterns("__pycache__", "setup_env.sh", "quickstart.sh", "run*_tests.sh")
        for name in ("configs", "tools", "model-index.yml"):
            source = ROOT / name
            if self.editable_mode:
                (target / name).symlink_to(source, target_is_directory=source.is_dir())
            elif source.is_dir():
                shutil.copytree(source, target / name, ignore=ignored)
            else:
                shutil.copy2(source, target)


def cpu_kernels() -> dict:
    """The optional extension: where it cannot be built, the operator runs in plain PyTorch."""
    if CppExtension is None:
        return {}
    if STABLE_ABI:
        abi = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]  # 2.10.0
        link, python = [], {"options": {"bdist_wheel": {"py_limited_api": "cp310"}}} if LIMITED_API else {}
    else:
        abi = link = ["-fopenmp"]  # of ATen's parallel_for, which is compiled into its caller
        python = {}
    extension = CppExtension(
        "mmcarafe._C",
        sorted(str(path.relative_to(ROOT)) for path in (ROOT / "mmcarafe/ops/csrc").glob("*.cpp")),
        depends=sorted(str(path.relative_to(ROOT)) for path in (ROOT / "mmcarafe/ops/csrc").glob("*.h")),
        extra_compile_args=[
            "-O3",
            "-g0",
            "-fno-math-errno",
            "-fno-tree-loop-distribute-patterns",
            *abi,
        ],
        extra_link_args=link,
        py_limited_api=LIMITED_API,
        optional=True,
    )
    return {"ext_modules": [extension], **python}


OPENMMLAB = ["mmengine>=0.10.7,<0.11", "mmcv>=2.1.0,<2.2.0"]
ONEDL = ["onedl-mmengine>=0.10.12,<0.11", "onedl-mmcv>=2.3.6,<2.4"]

setup(
    name="mmcarafe",
    version=VERSION,
    description="CARAFE upsampling for MMDetection, on CPU and GPU",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["mmcarafe", "mmcarafe.*"]),
    python_requires=">=3.10",
    install_requires=["torch>=2.6"],  # all that operator and layers need; detectors: an extra below
    package_data={
        "mmcarafe": ["py.typed"],
        "mmcarafe.ops": ["csrc/*"],
        "mmcarafe.datasets.checks": ["*.csv"],
        "mmcarafe.visualization": ["kernel_page.html", "kernel_page.js"],
    },
    **cpu_kernels(),
    cmdclass={"build_py": WithConfigsAndTools, **({"build_ext": OptionalBuild} if CppExtension else {})},
    extras_require={
        # from what was tested to the next minor version; mmdet 3.3.0 refuses mmcv 2.2 and newer
        "openmmlab": [*OPENMMLAB, "mmdet>=3.3.0,<3.4"],
        # maintained forks that install the same import names; not together with "openmmlab"
        "onedl": [*ONEDL, "onedl-mmdetection>=3.5.1,<3.6"],
        # mmcarafe.segmentation, which needs no mmdet
        "mmseg": [*OPENMMLAB, "mmsegmentation>=1.2.2,<1.3", "ftfy", "regex"],
        "onedl-mmseg": [*ONEDL, "onedl-mmsegmentation>=1.4.2,<1.5", "ftfy", "regex"],
        # GPU kernels; torch's CUDA builds for Linux bring it along
        "triton": ["triton>=3.4"],
        # tools/deployment/export.py
        "onnx": ["onnx>=1.23", "onnxscript>=0.7", "onnxruntime>=1.23"],
        # with "onnx": export.py --format openvino
        "openvino": ["openvino>=2026.4"],
        "tests": ["pytest>=8", "pytest-xdist>=3", "hypothesis>=6", "ruff", "clang-format", "codespell"],
    },
)
