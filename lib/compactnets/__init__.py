"""Compact Networks: methods, claims and kernels for small and fast neural networks."""

__version__ = "0.1.0"
