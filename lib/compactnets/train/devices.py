"""Device, precision and compilation of a run."""

import importlib.util
import logging
import shutil
import sys

import torch
from lightning_fabric import Fabric

from compactnets.train.recipe import Recipe

# Optimizer steps after which compiling (half a minute; seconds if its cache is warm) pays.
STEPS_THAT_PAY_FOR_COMPILING = 600


def bf16_is_fast(device: torch.device) -> bool:
    """Has the device instructions for bf16 products? Without them bf16 is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return device.type == "cpu" and bool(probe())


def make_fabric(recipe: Recipe, devices: int = 1, accelerator: str = "auto") -> Fabric:
    """A Fabric in the recipe's precision on the best device (accelerator "cpu", "cuda", …).

    devices > 1 trains data-parallel (DDP): call its launch() first, or start with torchrun.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces bf16 each time
    probe = Fabric(accelerator=accelerator, devices=1)
    wants_bf16 = recipe.precision == "bf16" or (
        recipe.precision == "auto" and bf16_is_fast(probe.device)
    )
    return Fabric(
        accelerator=accelerator,
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision="bf16-mixed" if wants_bf16 else "32-true",
    )


def precision_of(fabric: Fabric) -> str:
    """The fabric's precision by Lightning's name: "bf16-mixed" or "32-true"."""
    return str(fabric._precision.precision)


def wants_compiling(recipe: Recipe, steps: int, device: torch.device) -> bool:
    """The recipe's word, or for "auto": is there a compiler, and are there steps enough?"""
    if recipe.compile != "auto":
        return recipe.compile
    if device.type == "cuda":
        able = importlib.util.find_spec("triton") is not None
    else:
        able = sys.platform == "linux" and shutil.which("g++") is not None
    return able and steps >= STEPS_THAT_PAY_FOR_COMPILING
