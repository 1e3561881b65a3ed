"""Weights of 4 and 2 bits: from floats to integers and scales, and into the layout of the kernels.

A weight is scale * q with an integer q; what is stored is the code q + zero, 0 .. 2^bits - 1.
"""

import torch
from torch import Tensor

LANES = 16
PADDING = 64  # inputs are padded to a multiple of it
MOST_INPUTS = 65536
GROUPS = (32, 64, 128)


def zero_code(bits: int, ternary: bool = False) -> int:
    """The code of the weight 0: 2^(bits - 1), or 1 for ternary weights (-1, 0, +1 as 0, 1, 2)."""
    if bits not in (2, 4):
        raise ValueError(f"bits must be 2 or 4, got {bits}")
    if ternary and bits != 2:
        raise ValueError(f"ternary weights have 2 bits, got bits={bits}")
    return 1 if ternary else 2 ** (bits - 1)


def packed_shape(outputs: int, inputs: int, bits: int) -> tuple[int, int, int]:
    """(blocks, steps, 64) of pack_codes."""
    block = LANES * 8 // bits
    return -(-outputs // block), -(-inputs // PADDING) * (PADDING // 4), 4 * LANES


def quantize_weight(
    weight: Tensor, bits: int, *, ternary: bool = False, group: int | None = None
) -> tuple[Tensor, Tensor]:
    """(out, in) floats -> int8 integers (out, in) and float32 scales (out, in / group or 1).

    Symmetric and uniform by the largest magnitude of a group of inputs (None: of an output):
    scale = max|w| / top with top = 7 (4 bits) or 1 (2 bits, ternary or not: -2 goes unused), the
    integers w / scale rounded to nearest. A group of zeros has scale 0. ValueError for weights
    that are not finite.
    """
    zero_code(bits, ternary)
    if weight.dim() != 2 or not weight.is_floating_point():
        raise ValueError(
            f"weight must be (out, in) floats, got {weight.dtype} {tuple(weight.shape)}"
        )
    if not weight.isfinite().all():
        raise ValueError("weight must be finite")
    outputs, inputs = weight.shape
    groups = weight.detach().float().reshape(outputs, _group_count(inputs, group), -1)
    top = 2 ** (bits - 1) - 1
    scale = groups.abs().amax(-1) / top
    safe = torch.where(scale > 0, scale, 1.0)[..., None]
    integers = torch.round(groups / safe).clamp(-top, top)
    return integers.to(torch.int8).reshape(outputs, inputs), scale


def _group_count(inputs: int, group: int | None) -> int:
    """Groups of one output's inputs; ValueError for a size there is no kernel for."""
    if not 0 < inputs <= MOST_INPUTS:
        raise ValueError(f"there must be 1 to {MOST_INPUTS} inputs, got {inputs}")
    if group is None:
        return 1
    if group not in GROUPS:
        raise ValueError(f"group must be one of {GROUPS} or None, got {group}")
    if inputs % group:
        raise ValueError(f"group={group} does not divide {inputs} inputs")
    return inputs // group


def pack_codes(integers: Tensor, bits: int, zero: int) -> Tensor:
    """(out, in) int8 integers -> (blocks, steps, 64) uint8, the codes integers + zero in fields.

    A block is 16 * 8 / bits outputs, a step 4 inputs. Byte 4 l + j of a step holds, from the low
    bits up, the codes of input 4 * step + j for the outputs l, 16 + l, ... of the block. ValueError
    for integers that have no code.
    """
    if integers.dim() != 2 or integers.dtype is not torch.int8:
        raise ValueError(
            f"integers must be (out, in) int8, got {integers.dtype} {tuple(integers.shape)}"
        )
    _group_count(integers.shape[1], None)
    if ((integers < -zero) | (integers > 2**bits - 1 - zero)).any():
        raise ValueError(
            f"integers must be {-zero} .. {2**bits - 1 - zero}, got "
            f"{int(integers.min())} .. {int(integers.max())}"
        )
    outputs, inputs = integers.shape
    blocks, steps, _ = packed_shape(outputs, inputs, bits)
    fields = 8 // bits
    codes = integers.new_full((blocks * fields * LANES, 4 * steps), zero, dtype=torch.uint8)
    codes[:outputs, :inputs] = (integers + zero).to(torch.uint8)
    parts = codes.reshape(blocks, fields, LANES, steps, 4).permute(0, 3, 2, 4, 1)
    shifts = bits * torch.arange(fields, dtype=torch.uint8, device=codes.device)
    return (parts << shifts).sum(-1, dtype=torch.uint8).reshape(blocks, steps, 4 * LANES)


def unpack_codes(packed: Tensor, outputs: int, inputs: int, bits: int, zero: int) -> Tensor:
    """The int8 integers (out, in) of pack_codes."""
    blocks, steps, _ = packed.shape
    shifts = bits * torch.arange(8 // bits, dtype=torch.uint8, device=packed.device)
    codes = (packed.reshape(blocks, steps, LANES, 4)[..., None] >> shifts) & (2**bits - 1)
    rows = codes.permute(0, 4, 2, 1, 3).reshape(-1, 4 * steps)
    return rows[:outputs, :inputs].to(torch.int8) - zero
