"""8x8 blocks of an image into frequencies and back: orthonormal DCT-II, mask, inverse.

A block B becomes D B D', D[k, n] = c_k cos((2n + 1) k pi / 16) with c_0 = 1/sqrt 8, else 1/2: the
transform of JPEG. The mask multiplies the 64 frequencies; D is orthonormal, so its transpose brings
the pixels back, and the whole is a symmetric linear map.
"""

import functools
import math
from types import ModuleType

import torch
from torch import Tensor, nn

from compactnets.kernels import native
from compactnets.kernels.operator import Operator

BLOCK = 8


def dct_matrix(dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Tensor:
    """D, (8, 8): row k holds frequency k. D @ D.T is the identity."""
    k, n = torch.arange(8.0, dtype=torch.double)[:, None], torch.arange(8.0, dtype=torch.double)
    matrix = torch.cos((2 * n + 1) * k * math.pi / 16) / 2
    matrix[0] = math.sqrt(1 / 8)
    return matrix.to(device=device, dtype=dtype)


@functools.lru_cache(maxsize=1024)
def _check_shapes(x: torch.Size, mask: torch.Size | None) -> None:
    if len(x) != 4:
        raise ValueError(f"x must be (N, C, H, W), got shape {tuple(x)}")
    if x[2] % BLOCK or x[3] % BLOCK:
        raise ValueError(f"x must have height and width divisible by 8, got {tuple(x)}")
    if mask is not None and tuple(mask) not in ((8, 8), (x[1], 8, 8)):
        raise ValueError(f"mask must be (8, 8) or ({x[1]}, 8, 8), got {tuple(mask)}")


def _check(x: Tensor, mask: Tensor | None = None) -> None:
    if x.dtype is not torch.float32:
        raise TypeError(f"x must be float32, got {x.dtype}")
    if mask is not None:
        if mask.dtype is not torch.float32:
            raise TypeError(f"mask must be float32, got {mask.dtype}")
        if mask.device != x.device:
            raise ValueError(f"mask is on {mask.device}, x on {x.device}")


def _blocks(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, H / 8, W / 8, 8, 8)."""
    return x.unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).transpose(3, 4)


def _image(blocks: Tensor) -> Tensor:
    """(N, C, H / 8, W / 8, 8, 8) -> (N, C, H, W), contiguous."""
    return blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3).contiguous()


def dct8x8_reference(x: Tensor) -> Tensor:
    """Each 8x8 block of x (N, C, H, W) replaced by its frequencies: D B D'.

    float32, H and W multiples of 8, any strides -> contiguous, the same shape. A NaN or an infinity
    spoils its block. Differentiable. Any device. TypeError or ValueError for what does not fit.
    """
    _check(x)
    _check_shapes(x.shape, None)
    d = dct_matrix(x.dtype, x.device)
    return _image(d @ _blocks(x) @ d.T)


def idct8x8_reference(x: Tensor) -> Tensor:
    """The inverse of dct8x8: D' B D; the rest as there."""
    _check(x)
    _check_shapes(x.shape, None)
    d = dct_matrix(x.dtype, x.device)
    return _image(d.T @ _blocks(x) @ d)


def dct_mask_reference(x: Tensor, mask: Tensor) -> Tensor:
    """idct8x8(mask * dct8x8(x)), block by block: D' (mask * D B D') D.

    mask (8, 8), or (C, 8, 8) for one per channel: row is the vertical, column the horizontal
    frequency. The kernel agrees to about 1e-6 of a block's largest value times the mask's.
    Differentiable in both; the rest as for dct8x8.
    """
    _check(x, mask)
    _check_shapes(x.shape, mask.shape)
    d = dct_matrix(x.dtype, x.device)
    per_channel = mask if mask.dim() == 2 else mask[:, None, None]
    return _image(d.T @ (per_channel * (d @ _blocks(x) @ d.T)) @ d)


def _fake(x, mask=None):
    _check(x, mask)
    _check_shapes.__wrapped__(x.shape, None if mask is None else mask.shape)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _kernel(inverse: bool):
    """On the compiled module: with a mask, or one direction without."""

    def make(module: ModuleType):
        def run(x, mask=None):
            _check(x, mask)
            _check_shapes(x.shape, None if mask is None else mask.shape)
            x = x.contiguous()
            y = torch.empty_like(x)
            module.dct8x8(
                native.dlpack(x),
                native.dense(mask),
                native.dlpack(y),
                inverse,
                torch.get_num_threads(),
            )
            return y

        return run

    return native.bind(make)


def _operator(name, reference, inverse=False):
    schema = "(Tensor x, Tensor mask) -> Tensor" if name == "dct_mask" else "(Tensor x) -> Tensor"
    return Operator(name, reference, schema=schema, fake=_fake, kernel=_kernel(inverse))


# Arguments and results of the references of the same names.
dct8x8 = _operator("dct8x8", dct8x8_reference)
idct8x8 = _operator("idct8x8", idct8x8_reference, inverse=True)
dct_mask = _operator("dct_mask", dct_mask_reference)


def _remember(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _mask_backward(ctx, gradient):
    """The map is symmetric in x; in the mask it is the product of the two spectra, summed."""
    x, mask = ctx.saved_tensors
    x_gradient = dct_mask(gradient, mask) if ctx.needs_input_grad[0] else None
    mask_gradient = None
    if ctx.needs_input_grad[1]:
        product = _blocks(dct8x8(x) * dct8x8(gradient))
        mask_gradient = product.sum((0, 1, 2, 3) if mask.dim() == 2 else (0, 2, 3))
    return x_gradient, mask_gradient


# Orthonormal: the gradient of one direction is the other.
dct8x8.op.register_autograd(lambda ctx, gradient: idct8x8(gradient))
idct8x8.op.register_autograd(lambda ctx, gradient: dct8x8(gradient))
dct_mask.op.register_autograd(_mask_backward, setup_context=_remember)


class DCTMask(nn.Module):
    """Multiplies the frequencies of every 8x8 block by a fixed mask, (8, 8) or (C, 8, 8).

    x (N, C, H, W), H and W multiples of 8; floating dtypes other than float32 are converted; the
    result is float32 and contiguous. All state is in the buffer `mask`.
    """

    mask: Tensor

    def __init__(self, mask: Tensor):
        super().__init__()
        if mask.dim() not in (2, 3) or tuple(mask.shape[-2:]) != (8, 8):
            raise ValueError(f"mask must be (8, 8) or (C, 8, 8), got shape {tuple(mask.shape)}")
        self.register_buffer("mask", mask.detach().to(torch.float32, copy=True))

    @classmethod
    def blank(cls, channels: int | None = None) -> "DCTMask":
        """A mask of ones, per channel if their number is given, to load a state_dict into."""
        return cls(torch.ones(8, 8) if channels is None else torch.ones(channels, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return dct_mask(x.float() if x.is_floating_point() else x, self.mask)

    def cost_weights(self) -> int:
        return self.mask.numel()

    def cost_macs(self, input_shape, output_shape) -> int:
        """Of the separable form: four products with an 8x8 matrix, 32 MACs a value."""
        return 32 * math.prod(output_shape)

    def extra_repr(self) -> str:
        return f"{tuple(self.mask.shape)}, kept={int((self.mask != 0).sum())}"
