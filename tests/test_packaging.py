# SPDX-License-Identifier: Apache-2.0
"""What each part of the package needs, and that it installs where its kernels cannot be built."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.fileio import load
from packaging.requirements import Requirement
from torch.utils.cpp_extension import include_paths

from mmcarafe.__main__ import main
from mmcarafe.ops import implementations

ROOT = Path(__file__).parents[1]


def python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


STACK = ["mmengine", "mmcv", "mmdet"]


@pytest.mark.parametrize(
    ("imports", "blocked"),
    [
        ("mmcarafe.demo", STACK),
        ("mmcarafe.ops", [*STACK, "numpy"]),
        ("mmcarafe.analysis", [*STACK, "numpy"]),
        pytest.param(
            "mmcarafe.segmentation",
            ["mmdet"],
            marks=pytest.mark.skipif(not find_spec("mmseg"), reason="mmsegmentation is not installed"),
        ),
    ],
)
def test_a_part_imports_without_the_stack_above_it(imports, blocked):
    result = python(f"import sys; sys.modules.update(dict.fromkeys({blocked})); import {imports}")
    assert result.returncode == 0, result.stderr


def test_segmentation_without_mmsegmentation_says_what_to_install():
    result = python("import sys; sys.modules['mmseg'] = None; import mmcarafe.segmentation")
    last = result.stderr.strip().splitlines()[-1]
    assert "needs mmsegmentation, ftfy and regex" in last and "pip install mmsegmentation ftfy regex" in last


def test_what_optional_tests_need_is_installed():
    """Tests of Triton and ONNX are skipped without it, which must not happen where setup_env.sh was run."""
    if not (Path(sys.prefix) / ".mmcarafe-ready").is_file():
        pytest.skip("an environment of one's own")
    pinned = re.search(r"^torch==(\S+)", (ROOT / "requirements/torch.txt").read_text(), re.M)[1]
    for requirement in map(Requirement, (ROOT / "requirements/tests.txt").read_text().splitlines()):
        if requirement.marker and not requirement.marker.evaluate():
            continue
        if requirement.name == "triton" and not torch.__version__.startswith(pinned):
            continue  # the one that goes with another torch
        assert metadata.version(requirement.name).split("+")[0] in requirement.specifier


@pytest.mark.parametrize("blocked", [["mmcv", "mmdet"], [*STACK, "numpy"]], ids=["mmcv", "mmengine"])
def test_the_layers_run_without(blocked):
    """All of them, forward and backward."""
    code = f"""
import sys; sys.modules.update(dict.fromkeys({blocked}))
import torch
from mmcarafe import layers
x, guide = torch.rand(1, 8, 5, 7), torch.rand(1, 8, 10, 14)
for kind in (layers.CARAFE, layers.DySample, layers.DLU, layers.SAPA, layers.FADE, layers.CARAFEDownsample):
    layer = kind(8, 8) if kind.guided else kind(8)
    y = layer(x, guide) if kind.guided else layer(x)
    y.sum().backward()
    layer.init_weights()
    if not kind.downsamples:
        built = layers.build_upsample(dict(type=kind.__name__), 8, 2, guide_channels=8)
        assert type(built) is kind
    print(kind.__name__, list(y.shape[2:]), layers.carafe_flops(layers.CARAFE(256)))
nearest, normed = dict(type="nearest"), dict(type="CARAFE", norm_cfg=dict(type="BN"))
for cfg in (nearest, normed):
    try:
        layers.build_upsample(cfg, 8, 2)
        print("built")
    except layers.UpsampleConfigError as error:
        assert "mmcv" in str(error)
"""
    result = python(code)
    up = ("CARAFE", "DySample", "DLU", "SAPA", "FADE")
    expected = [f"{name} [10, 14] 199496" for name in up] + ["CARAFEDownsample [3, 4] 199496"]
    assert result.stdout.splitlines() == expected, result.stderr


def test_what_is_installed_and_runs_is_printed(capsys):
    main()
    said = dict(
        line.split(maxsplit=1)
        for line in capsys.readouterr().out.replace(" kernels", "-kernels").splitlines()
    )
    assert said["torch"] == torch.__version__ and said["mmdet"].split()[0] == mmdet.__version__
    assert said["CPU-kernels"].startswith(implementations("cpu")[0])
    assert (said["CUDA-kernels"] == "no CUDA device") != torch.cuda.is_available()


def without_compiler(tmp_path) -> dict:
    """An environment in which the kernels cannot be built, which saves minutes."""
    compiler = tmp_path / "broken-c++"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    return {**os.environ, "CXX": str(compiler), "CC": str(compiler)}


def test_a_build_without_a_compiler_installs_without_the_kernels(tmp_path):
    result = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", tmp_path, "--build-temp", tmp_path],
        cwd=ROOT,
        env=without_compiler(tmp_path),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert not list(tmp_path.rglob("*.so"))
    assert "mmcarafe._C" in result.stderr + result.stdout


def test_kernels_of_other_sources_are_not_left_where_a_build_fails(tmp_path):
    for name in ("setup.py", "README.md", "mmcarafe/__init__.py", "mmcarafe/ops/csrc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    (tmp_path / "mmcarafe/_C.abi3.so").write_bytes(b"of other sources")
    build = [sys.executable, "setup.py", "build_ext", "--inplace"]
    subprocess.run(build, cwd=tmp_path, env=without_compiler(tmp_path), check=True, capture_output=True)
    assert not list((tmp_path / "mmcarafe").glob("_C.*"))


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the package as the wheel of its source archive installs it; the checkout is not used."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    ignore = shutil.ignore_patterns(
        ".git", ".venv", "build", "*.egg-info", "*.so", ".mim", "data", "work_dirs"
    )
    shutil.copytree(ROOT, source, ignore=ignore)
    env = without_compiler(folder)
    sdist = [sys.executable, "setup.py", "sdist", "--dist-dir", str(folder)]
    subprocess.run(sdist, check=True, cwd=source, env=env, capture_output=True)
    shutil.rmtree(source)
    (archive,) = folder.glob("mmcarafe-*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(archive)]
    subprocess.run(build, check=True, env=env, capture_output=True)
    (wheel,) = folder.glob("mmcarafe-*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)],
        check=True,
        capture_output=True,
    )
    return folder / "site"


def run_installed(installed, *args, cwd) -> str:
    env = {**os.environ, "PYTHONPATH": str(installed), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *map(str, args)], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


@pytest.mark.slow
def test_the_wheel_has_configs_tools_and_an_index(installed):
    for kept in (
        "datasets/checks/kinds.csv",
        "visualization/kernel_page.html",
        "visualization/kernel_page.js",
    ):
        assert (installed / "mmcarafe" / kept).is_file()
    mim = installed / "mmcarafe/.mim"
    checkout_only = {Path("tools/setup_env.sh"), Path("tools/quickstart.sh"), Path("tools/run_tests.sh")}
    checkout_only.add(Path("tools/run_gpu_tests.sh"))
    for folder in ("configs", "tools"):
        shipped, expected = (
            {p.relative_to(root) for p in (root / folder).rglob("*") if p.suffix in (".py", ".sh", ".yml")}
            for root in (mim, ROOT)
        )
        assert shipped == expected - checkout_only
    index = load(mim / "model-index.yml")
    models = [model for path in index["Import"] for model in load(mim / path)["Models"]]
    assert {mim / model["Config"] for model in models} == set((mim / "configs/carafe").glob("*_coco.py"))


@pytest.mark.slow
def test_an_installed_wheel_trains_tests_counts_and_exports(installed, tmp_path):
    mim = installed / "mmcarafe/.mim"
    run_installed(
        installed,
        mim / "tools/dataset_tools/make_shapes_dataset.py",
        "data/shapes",
        "--train",
        2,
        "--val",
        1,
        cwd=tmp_path,
    )
    config = mim / "configs/carafe/mask-rcnn_r18_fpn-carafe_shapes.py"
    small = ["model.backbone.base_channels=8", "model.neck.in_channels=[8,16,32,64]"]
    run_installed(
        installed, mim / "tools/train.py", config, "--work-dir", "work",
        "--cfg-options", *small, "train_dataloader.batch_size=2", "train_cfg.max_epochs=1", cwd=tmp_path,
    )  # fmt: skip
    weights = tmp_path / "work/epoch_1.pth"
    smaller = ["--cfg-options", *small]
    tested = run_installed(installed, mim / "tools/test.py", config, weights, *smaller, cwd=tmp_path)
    assert "coco/segm_mAP" in tested
    counted = run_installed(
        installed, mim / "tools/analysis_tools/get_flops.py", config, *smaller, cwd=tmp_path
    )
    assert "GFLOPs" in counted
    run_installed(
        installed, mim / "tools/deployment/export.py", config, weights, "--part", "upsampler",
        "--output", "upsampler.onnx", *smaller, cwd=tmp_path,
    )  # fmt: skip
    assert (tmp_path / "upsampler.onnx").is_file()
    code = "import mmcarafe; print(mmcarafe.__file__)"
    assert run_installed(installed, "-c", code, cwd=tmp_path).startswith(str(installed))


@pytest.fixture(scope="module")
def kernels() -> Path:
    """The shared object of the compiled kernels."""
    spec = find_spec("mmcarafe._C")
    if spec is None:
        pytest.skip("the kernels are not built")
    return Path(spec.origin)


@pytest.mark.needs(torch="2.10")
def test_one_build_of_the_kernels_goes_with_every_torch_and_python(kernels):
    """Names of torch's C++ classes would tie it to one torch, and CPython's own to one Python."""
    assert kernels.name == "_C.abi3.so"
    names = subprocess.run(
        ["nm", "-D", "--undefined-only", kernels], check=True, capture_output=True, text=True
    )
    wanted = [line.split()[-1] for line in names.stdout.splitlines()]
    assert [name for name in wanted if re.match(r"_ZNK?(2at|3c10|5torch)", name)] == []
    assert [name for name in wanted if name.startswith(("Py", "_Py"))] == ["PyModule_Create2"]
    libraries = subprocess.run(["readelf", "-d", kernels], check=True, capture_output=True, text=True)
    assert "torch_python" not in libraries.stdout and "gomp" not in libraries.stdout


@pytest.mark.slow
def test_the_kernels_compile_for_a_torch_without_the_stable_abi():
    flags = [f"-isystem{path}" for path in [*include_paths(), sysconfig.get_path("include")]]
    source = ROOT / "mmcarafe/ops/csrc/carafe_cpu.cpp"
    compiler = [
        os.environ.get("CXX", "g++"),
        "-std=c++17",
        "-fsyntax-only",
        "-fopenmp",
        "-Werror",
        *flags,
        source,
    ]
    result = subprocess.run(compiler, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_torch_that_is_too_old_is_named_before_it_is_replaced(tmp_path):
    package = tmp_path / "torch/utils"
    package.mkdir(parents=True)
    (tmp_path / "torch/__init__.py").write_text("__version__ = '2.1.0+cu118'")
    (package / "__init__.py").touch()
    (package / "cpp_extension.py").write_text("class BuildExtension: pass\nCppExtension = BuildExtension")
    result = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr.startswith(
        "mmcarafe needs torch 2.6 or newer, found 2.1.0+cu118: pip would replace it"
    )
