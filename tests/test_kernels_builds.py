"""Builds with less: no newer instruction sets, and no compiler at all."""

import os
import subprocess
import sys
import zipfile

import pytest

from compactnets import paths

ROOT = paths.project_root()

IMPORT = """
import sys, importlib.util
spec = importlib.util.spec_from_file_location("compactnets._native", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.modules["compactnets._native"] = module
import torch
from compactnets import kernels
assert kernels.supported() == ["portable", "reference"], kernels.supported()
layer = kernels.BinaryConv2d(torch.randn(16, 40, 3, 3), padding=1)
x = torch.randn(1, 40, 6, 6)
assert torch.equal(layer(x), kernels.binary_conv2d_reference(
    x, layer.packed, layer.scale, kernel_size=(3, 3), padding=(1, 1)))
print(kernels.isa())
"""


def run(*command, **environment):
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, cwd=ROOT
    )


def test_a_build_without_newer_instruction_sets_runs_on_the_portable_path(tmp_path):
    cmake = [sys.executable, "-m", "cmake"]
    done = run(
        *cmake, "-S", "kernels", "-B", str(tmp_path), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Debug",
        "-DCMAKE_CXX_FLAGS=-O0", "-DCOMPACTNETS_PATHS=", f"-DPython_EXECUTABLE={sys.executable}",
        f"-DCMAKE_MAKE_PROGRAM={_ninja()}",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    done = run(*cmake, "--build", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    (module,) = tmp_path.glob("_native*.so")
    done = run(sys.executable, "-c", IMPORT, str(module), COMPACTNETS_ISA="")
    assert (done.returncode, done.stdout) == (0, "portable\n"), done.stderr


def _ninja() -> str:
    ninja = pytest.importorskip("ninja")
    return os.path.join(ninja.BIN_DIR, "ninja")


def test_without_a_compiler_the_package_is_built_without_the_module(tmp_path):
    build = "import sys; from scikit_build_core.build import build_wheel; build_wheel(sys.argv[1])"
    done = run(
        sys.executable, "-c", build, str(tmp_path), CXX=str(tmp_path / "no-compiler"),
        SKBUILD_BUILD_DIR=str(tmp_path / "build"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "compactnets/kernels/native.py" in names
    assert not [name for name in names if "_native" in name and name.endswith(".so")]
