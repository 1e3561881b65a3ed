"""Low-bit quantization: uniform grids, trainable ranges, and what they do to a network."""
