"""Random streams that do not depend on each other: one generator per purpose, named."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for one purpose, e.g. derive(0, "augment", epoch).

    The same arguments give the same seed on every machine; different names give unrelated ones.
    """
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh torch.Generator on the device, seeded by derive(seed, *names)."""
    return torch.Generator(device).manual_seed(derive(seed, *names))


@contextmanager
def scoped(seed: int, *names: str | int) -> Iterator[None]:
    """Seeds torch's global generators inside the block and restores them afterwards.

    For code that can only draw from them: nn.Module initialisation, dropout.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(derive(seed, *names))
        yield
