"""One hypothesis profile for all tests: a busy machine is slow, and slow is no failure."""

from hypothesis import HealthCheck, settings

settings.register_profile("book", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("book")
