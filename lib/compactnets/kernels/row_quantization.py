"""Activations to int8 with one scale per row, chosen from the row at run time."""

import torch
from torch import Tensor

_SMALLEST = 2.0**-100  # below it 127 / max could overflow


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """(..., depth) float32 -> int8 codes, as many, and float32 scales (...): x ≈ codes * scale.

    scale = max|x| / 127 of the row; codes = x * (127 / max|x|) rounded to nearest, ties to even, so
    -127 .. 127. A row with a NaN or an infinity gets codes 0 and scale NaN; a row whose largest
    magnitude is below 2^-100 codes 0 and scale 0. The compiled kernels do this, bit for bit.
    """
    if x.numel() == 0:
        return x.to(torch.int8), x.new_zeros(x.shape[:-1])
    largest = x.abs().amax(-1, keepdim=True)
    seven_bits = torch.full_like(largest, 127.0)  # a tensor: a number would multiply by 1 / largest
    codes = torch.round(x * torch.div(seven_bits, largest))
    scale = torch.div(largest, seven_bits)
    tiny, bad = largest < _SMALLEST, ~torch.isfinite(largest)
    codes = codes.masked_fill(tiny | bad, 0).to(torch.int8)
    return codes, scale.masked_fill(tiny, 0).masked_fill(bad, torch.nan).squeeze(-1)
