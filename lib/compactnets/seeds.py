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
    """Seeds torch's global CPU generator inside the block and restores it afterwards.

    For code that can only draw from the global generator, such as nn.Module initialisation.
    """
    state = torch.get_rng_state()
    torch.manual_seed(derive(seed, *names))
    try:
        yield
    finally:
        torch.set_rng_state(state)
