"""Every instruction-set path in a process of its own, and life without compiled kernels."""

import os
import subprocess
import sys
import types

import pytest
import torch

from compactnets import kernels
from compactnets.kernels import native

# Shapes that meet each loop: pairs and single words, whole and part blocks and tiles, counters
# that are flushed, borders of every class, groups, strides, dilation, 1 pixel, 0 images.
CHECK = """
import torch
from compactnets import kernels
from compactnets.kernels import (BinaryConv2d, BinaryConv2dSigns, BinaryLinear,
                                 binary_conv2d_reference, pack_signs, pack_signs_reference)

def check(images, channels, outputs, height, width, kernel, **geometry):
    groups = geometry.get("groups", 1)
    x = torch.randn(images, channels, height, width).to(memory_format=torch.channels_last)
    weight = torch.randn(outputs, channels // groups, *kernel)
    layer = BinaryConv2d(weight, torch.randn(outputs), bias=torch.randn(outputs),
                         input_shift=torch.randn(channels), **geometry)
    expected = binary_conv2d_reference(
        x, layer.packed, layer.scale, layer.bias, layer.input_shift, kernel_size=kernel,
        stride=layer.stride, padding=layer.padding, dilation=layer.dilation, groups=groups)
    assert torch.equal(layer(x), expected), (channels, outputs, kernel, geometry)

torch.manual_seed(0)
for channels in (1, 7, 8, 16, 31, 32, 33, 63, 64, 65, 95, 96, 100, 128, 129):
    check(2, channels, 17, 6, 9, (3, 3), padding=1)
for width in range(1, 24):
    check(1, 40, 16, 1, width, (1, 1))
for outputs in (1, 8, 15, 16, 31, 33):
    check(1, 64, outputs, 5, 5, (3, 3), padding=1)
check(1, 1000, 20, 8, 8, (7, 7), padding=3)
check(1, 32, 20, 9, 9, (7, 7), padding=3, stride=2)
check(3, 64, 32, 11, 8, (2, 5), padding=(4, 0), stride=(2, 3), dilation=(1, 1))
check(1, 96, 36, 9, 9, (3, 3), padding=2, dilation=2, groups=3)
check(1, 48, 48, 7, 7, (3, 3), padding=1, groups=48)
check(0, 64, 16, 4, 4, (3, 3))
check(2, 64, 80, 20, 30, (3, 3), padding=1)  # the matrix unit, were there one
check(2, 130, 256, 20, 31, (3, 3), padding=2, stride=2)
check(1, 320, 256, 17, 31, (2, 3), padding=(0, 3), stride=(3, 1), dilation=(1, 2))
check(5, 1024, 1024, 4, 5, (1, 1))
check(1, 140, 320, 24, 24, (3, 3), padding=1, groups=2)
for channels, outputs, groups in ((64, 64, 1), (40, 24, 1), (33, 48, 1), (60, 36, 3),
                                  (256, 512, 1)):
    layer = BinaryConv2d(torch.randn(outputs, channels // groups, 3, 3), torch.randn(outputs),
                         padding=1, groups=groups)
    signs_out = BinaryConv2dSigns.of(layer)
    for size in ((9, 13), (1, 1), (5, 64)):
        x = torch.randn(2, channels, *size)
        assert torch.equal(signs_out(x), pack_signs_reference(layer(x)))
        assert torch.equal(signs_out(pack_signs(x)), signs_out(x))
        assert torch.equal(layer(pack_signs(x)), layer(x))
x = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf")]).repeat(9)
identity = BinaryLinear(torch.eye(45) * 2 - 1)
assert torch.equal(identity(x), identity.sign_weight() @ torch.where(x >= 0, 1.0, -1.0))
from compactnets import _native
print(kernels.isa(), kernels.available(), _native.team_kind())
"""

WITHOUT = """
import sys, warnings
sys.modules["compactnets._native"] = None  # as if it had not been built
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from compactnets import kernels
    for _ in range(2):
        kernels.isa(), kernels.available(), kernels.supported()
messages = [str(w.message) for w in caught if "compactnets" in str(w.message)]
assert len(messages) == 1, messages
assert "compiler" in messages[0] and "reinstall" in messages[0]

import torch
layer = kernels.BinaryConv2d(torch.ones(2, 3, 3, 3), padding=1)
assert layer(torch.ones(1, 3, 2, 2)).tolist() == [[[[12.0] * 2] * 2] * 2]
print(kernels.isa(), kernels.available(), kernels.supported())
"""


def run(code, **environment):
    environment = {**os.environ, "COMPACTNETS_ISA": "", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize("isa", [isa for isa in kernels.supported() if isa != "reference"])
def test_every_path_equals_the_reference_and_shares_the_threads_of_torch(isa):
    done = run(CHECK, COMPACTNETS_ISA=isa)
    assert done.returncode == 0, done.stderr
    openmp = "OpenMP" in torch.__config__.parallel_info()
    assert done.stdout.split() == [isa, "True", "openmp" if openmp else "std::thread"]


def test_without_the_native_module_the_references_run_and_it_is_said_once():
    done = run(WITHOUT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "reference False ['reference']\n"


@pytest.fixture
def load_again(monkeypatch):
    """The loader as a fresh process would run it; the path in use is restored afterwards."""
    before = kernels.isa()

    def load(isa):
        monkeypatch.setenv("COMPACTNETS_ISA", isa)
        return native.load.__wrapped__()

    yield load
    if before != "reference":
        native.load().select_isa(before)


def test_the_variable_forces_the_reference(load_again):
    assert load_again("reference") is None


def test_an_unknown_path_is_an_error_that_names_the_choices(load_again):
    with pytest.raises(ValueError, match="COMPACTNETS_ISA='mmx'") as caught:
        load_again("mmx")
    assert ", ".join(kernels.supported()) in str(caught.value)


def test_a_path_that_was_forced_but_not_built_is_an_error_with_the_cure(load_again, monkeypatch):
    monkeypatch.setitem(sys.modules, "compactnets._native", None)
    with pytest.raises(ValueError, match=r"choose one of reference.*compiler"):
        load_again("portable")


def test_a_module_built_from_other_sources_is_not_used(load_again, monkeypatch):
    old = types.ModuleType("compactnets._native")
    old.__file__ = "old.so"
    monkeypatch.setitem(sys.modules, "compactnets._native", old)
    with pytest.warns(RuntimeWarning, match=r"built from other sources.*reinstall"):
        assert load_again("") is None


def test_the_native_module_refuses_a_path_that_the_cpu_lacks():
    module = native.load()
    assert module is not None, "the kernels are not built; the suite is run with them"
    with pytest.raises(ValueError, match=r"'mmx' is not one of: .*portable"):
        module.select_isa("mmx")
    assert module.isa() == kernels.isa()
