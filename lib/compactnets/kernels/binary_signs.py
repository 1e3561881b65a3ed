"""Signs of activations as bits: what chained 1-bit layers hand on in place of floats.

A tensor of signs is int32 (N, H, W, ceil(C / 32)), the same on every instruction set: bit c % 32 of
word c / 32 belongs to channel c and is 1 for -1, 0 for +1; spare bits are 0.
"""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from compactnets.kernels import native
from compactnets.kernels.operator import Operator

WORD = 32  # channels of a word


def words_of(channels: int) -> int:
    """Words of a pixel."""
    return -(-channels // WORD)


def pack_bits(negative: Tensor) -> Tensor:
    """(N, C, H, W) bool, True for -1 -> int32 (N, H, W, words)."""
    padded = F.pad(negative.permute(0, 2, 3, 1).to(torch.int64), (0, -negative.shape[1] % WORD))
    bits = padded.unflatten(3, (-1, WORD)) << torch.arange(WORD, device=negative.device)
    return bits.sum(4).to(torch.int32)


def unpack_signs(signs: Tensor, channels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """int32 (N, H, W, words) -> (N, channels, H, W) of +1 and -1, channels_last.

    ValueError if the words do not fit the channels.
    """
    _check_signs(signs, channels)
    shifts = torch.arange(WORD, dtype=torch.int32, device=signs.device)
    bits = (signs.unsqueeze(4) >> shifts) & 1
    return (1 - 2 * bits.flatten(3)[..., :channels]).to(dtype).permute(0, 3, 1, 2)


def _check_signs(signs: Tensor, channels: int) -> None:
    if signs.dtype is not torch.int32:
        raise TypeError(f"signs must be int32, got {signs.dtype}")
    if signs.dim() != 4 or signs.shape[3] != words_of(channels):
        raise ValueError(
            f"signs of {channels} channels must be (N, H, W, {words_of(channels)}), "
            f"got shape {tuple(signs.shape)}"
        )


def _check(x: Tensor, input_shift: Tensor | None) -> None:
    if x.dim() != 4 or x.shape[1] == 0:
        raise ValueError(f"x must be (N, C, H, W) with channels, got shape {tuple(x.shape)}")
    for name, value in (("x", x), ("input_shift", input_shift)):
        if value is not None and value.dtype is not torch.float32:
            raise TypeError(f"{name} must be float32, got {value.dtype}")
        if value is not None and value.device != x.device:
            raise ValueError(f"{name} is on {value.device}, x on {x.device}")
    if input_shift is not None and input_shift.shape != x.shape[1:2]:
        raise ValueError(
            f"input_shift must have shape ({x.shape[1]},), got {tuple(input_shift.shape)}"
        )


def pack_signs_reference(x: Tensor, input_shift: Tensor | None = None) -> Tensor:
    """Signs of x + input_shift, (N, C, H, W) float32 of any strides -> int32 (N, H, W, words).

    sign(±0) = +1, sign(NaN) = -1. Any device; no gradient. TypeError for a wrong dtype, ValueError
    for shapes that do not fit.
    """
    _check(x, input_shift)
    shifted = x if input_shift is None else x + input_shift[:, None, None]
    return pack_bits(~(shifted >= 0))


def _fake(x, input_shift=None):
    _check(x, input_shift)
    images, channels, height, width = x.shape
    return x.new_empty((images, height, width, words_of(channels)), dtype=torch.int32)


def _kernel(module: ModuleType):
    def run(x, input_shift=None):
        _check(x, input_shift)
        x = x.contiguous(memory_format=torch.channels_last)
        images, channels, height, width = x.shape
        y = torch.empty((images, height, width, words_of(channels)), dtype=torch.int32)
        module.pack_signs(
            native.dlpack(x), native.dense(input_shift), native.dlpack(y), torch.get_num_threads()
        )
        return y

    return run


pack_signs = Operator(
    "pack_signs",
    pack_signs_reference,
    schema="(Tensor x, Tensor? input_shift=None) -> Tensor",
    fake=_fake,
    kernel=native.bind(_kernel),
)
