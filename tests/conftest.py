"""What holds for all tests."""

import sys

import pytest
from hypothesis import HealthCheck, settings

# One hypothesis profile: a busy machine is slow, and slow is no failure.
settings.register_profile("book", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("book")


@pytest.fixture(autouse=True)
def compiles_anew():
    """No test pays for what others have compiled: the compiler counts versions of a function."""
    yield
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()
