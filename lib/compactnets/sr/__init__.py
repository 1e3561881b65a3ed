"""Super-resolution: networks, the quality of what they return, and their quantized forms."""
