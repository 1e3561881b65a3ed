"""Sparse weights times dense activations in fp32: convolution and linear layer.

Weights come from sparse_pack: 1xN blocks or CSR. A weight that was dropped does not meet its input:
NaN and infinity reach an output through kept weights only.
"""

from collections.abc import Sequence
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from compactnets.kernels import native
from compactnets.kernels.geometry import conv_geometry, memory_format, positions
from compactnets.kernels.operator import Operator
from compactnets.kernels.sparse_pack import BLOCKS, check_index
from compactnets.kernels.sparse_plans import Call, PlanCache


def _check_tensors(
    x: Tensor, values: Tensor, index: Tensor, starts: Tensor, bias: Tensor | None
) -> int:
    """Outputs of the weight. TypeError for a wrong dtype, ValueError for shapes and devices."""
    named = (("x", x), ("values", values), ("index", index), ("starts", starts), ("bias", bias))
    for name, tensor in named:
        if tensor is None:
            continue
        wanted = torch.int32 if name in ("index", "starts") else torch.float32
        if tensor.dtype is not wanted:
            raise TypeError(f"{name} must be {str(wanted)[6:]}, got {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device}, x on {x.device}")
    if values.dim() != 2 or values.shape[1] not in BLOCKS:
        raise ValueError(f"values must be (blocks, n), n in {BLOCKS}, got {tuple(values.shape)}")
    if tuple(index.shape) != (values.shape[0],):
        raise ValueError(f"index must have shape ({values.shape[0]},), got {tuple(index.shape)}")
    if starts.dim() != 1 or starts.shape[0] < 2:
        raise ValueError(f"starts must have shape (rows + 1,), got {tuple(starts.shape)}")
    outputs = (starts.shape[0] - 1) * values.shape[1]
    if bias is not None and tuple(bias.shape) != (outputs,):
        raise ValueError(f"bias must have shape ({outputs},), got {tuple(bias.shape)}")
    return outputs


def _conv_shape(
    x: Sequence[int], values: Tensor, starts: Tensor, geometry, groups: int
) -> tuple[int, int, int, int]:
    rows, n = starts.shape[0] - 1, values.shape[1]
    if len(x) != 4 or x[1] == 0:
        raise ValueError(f"x must be (N, C, H, W) with channels, got shape {tuple(x)}")
    if groups < 1 or x[1] % groups or rows % groups:
        raise ValueError(f"groups={groups} does not divide {x[1]} inputs, {rows} rows of blocks")
    height, width = (
        positions(x[2 + axis], *(sizes[axis] for sizes in geometry)) for axis in (0, 1)
    )
    return x[0], rows * n, height, width


def _product(columns: Tensor, values: Tensor, index: Tensor, starts: Tensor) -> Tensor:
    """(groups, inputs, pixels) -> (outputs, pixels): every block adds its n products to its row."""
    groups, inputs, pixels = columns.shape
    check_index(index, starts, inputs)
    rows = torch.repeat_interleave(starts.diff())
    group = rows // ((starts.numel() - 1) // groups)
    sums = columns.new_zeros(starts.numel() - 1, values.shape[1], pixels)
    products = values[:, :, None] * columns[group, index.long(), None]
    return sums.index_add_(0, rows, products).flatten(0, 1)


def _clamp(y: Tensor, low: float | None, high: float | None) -> Tensor:
    return y if low is None and high is None else y.clamp(low, high)


def sparse_conv2d_reference(
    x: Tensor,
    values: Tensor,
    index: Tensor,
    starts: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    low: float | None = None,
    high: float | None = None,
) -> Tensor:
    """clamp(conv2d(x, weight) + bias, low, high) with zero padding, in plain PyTorch.

    x (N, C, H, W) float32, any strides; values, index, starts of a packed weight (out, C, kh, kw);
    bias (out,). With groups the weight is (out, C / groups, kh, kw), index counts within a group,
    and n divides the outputs of a group; groups=C is a depthwise convolution. low=0 is a fused
    ReLU, low=0, high=6 a ReLU6; NaN stays NaN. Returns float32
    (N, out, H', W'), channels_last if x has channel stride 1, else contiguous. The kernel sums in
    another order: it differs by rounding, at most inputs * 1.2e-7 * sum |w x|. Any device; no
    gradient. TypeError for a wrong dtype, ValueError for shapes, devices, geometry and an index
    that do not fit.
    """
    outputs = _check_tensors(x, values, index, starts, bias)
    geometry = conv_geometry(kernel_size, stride, padding, dilation)
    shape = _conv_shape(x.shape, values, starts, geometry, groups)
    size, step, around, spread = geometry
    y = x.new_empty(shape[0], outputs, shape[2] * shape[3])
    for image, result in zip(x, y, strict=True):
        columns = F.unfold(image, size, spread, around, step).unflatten(0, (groups, -1))
        result.copy_(_product(columns, values, index, starts))
    y = y.unflatten(2, shape[2:])
    y = y if bias is None else y + bias[:, None, None]
    y = _clamp(y, low, high)
    return torch.empty_like(y, memory_format=memory_format(x)).copy_(y)


def sparse_linear_reference(
    x: Tensor,
    values: Tensor,
    index: Tensor,
    starts: Tensor,
    bias: Tensor | None = None,
    *,
    low: float | None = None,
    high: float | None = None,
) -> Tensor:
    """clamp(x @ weight.T + bias, low, high) in plain PyTorch; x (..., in) -> (..., out) contiguous.

    values, index, starts of a packed weight (out, in); the rest is as in sparse_conv2d_reference.
    """
    outputs = _check_tensors(x, values, index, starts, bias)
    _check_linear(x)
    sums = _product(x.reshape(1, -1, x.shape[-1]).mT, values, index, starts).T
    sums = sums if bias is None else sums + bias
    return _clamp(sums, low, high).reshape(*x.shape[:-1], outputs).contiguous()


def _check_linear(x: Tensor) -> None:
    if x.dim() < 1 or x.shape[-1] == 0:
        raise ValueError(f"x must be (..., in) with in > 0, got shape {tuple(x.shape)}")


def _fake_conv2d(
    x,
    values,
    index,
    starts,
    bias=None,
    *,
    kernel_size,
    stride=(1, 1),
    padding=(0, 0),
    dilation=(1, 1),
    groups=1,
    low=None,
    high=None,
):
    _check_tensors(x, values, index, starts, bias)
    geometry = conv_geometry(kernel_size, stride, padding, dilation)
    shape = _conv_shape(x.shape, values, starts, geometry, groups)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))


def _fake_linear(x, values, index, starts, bias=None, *, low=None, high=None):
    outputs = _check_tensors(x, values, index, starts, bias)
    _check_linear(x)
    return x.new_empty(*x.shape[:-1], outputs)


def _conv_kernel(module: ModuleType):
    cache = PlanCache(module)

    def prepare(x, values, index, starts, bias, sizes, groups, low, high):
        _check_tensors(x, values, index, starts, bias)
        geometry = conv_geometry(*sizes)
        shape = _conv_shape(x.shape, values, starts, geometry, groups)
        form = memory_format(x)
        as_is = x.is_contiguous(memory_format=form)
        return Call(tuple(x.shape), shape, form, geometry, low, high, groups, as_is=as_is)

    def run(
        x,
        values,
        index,
        starts,
        bias=None,
        *,
        kernel_size,
        stride=(1, 1),
        padding=(0, 0),
        dilation=(1, 1),
        groups=1,
        low=None,
        high=None,
    ):
        if type(kernel_size) is not tuple:  # from the dispatcher: lists
            kernel_size, stride, padding, dilation = conv_geometry(
                kernel_size, stride, padding, dilation
            )
        return cache.run(
            prepare, x, (values, index, starts, bias),
            ((kernel_size, stride, padding, dilation), groups, low, high),
        )  # fmt: skip

    return run


def _linear_kernel(module: ModuleType):
    cache = PlanCache(module)
    ones = ((1, 1), (1, 1), (0, 0), (1, 1))

    def prepare(x, values, index, starts, bias, low, high):
        outputs = _check_tensors(x, values, index, starts, bias)
        _check_linear(x)
        shape = (x.numel() // x.shape[-1], x.shape[-1], 1, 1)  # a token is an image of one pixel
        result = (*x.shape[:-1], outputs)
        form, as_is = torch.contiguous_format, x.dim() == 2 and x.is_contiguous()
        return Call(shape, result, form, ones, low, high, tokens=True, as_is=as_is)

    def run(x, values, index, starts, bias=None, *, low=None, high=None):
        return cache.run(prepare, x, (values, index, starts, bias), (low, high))

    return run


_WEIGHT = "Tensor x, Tensor values, Tensor index, Tensor starts, Tensor? bias=None, *, "
_LIMITS = "float? low=None, float? high=None"

# Arguments and result of sparse_conv2d_reference; one int stands for two equal ones.
sparse_conv2d = Operator(
    "sparse_conv2d",
    sparse_conv2d_reference,
    schema=f"({_WEIGHT}int[2] kernel_size, int[2] stride=1, int[2] padding=0, int[2] dilation=1, "
    f"int groups=1, {_LIMITS}) -> Tensor",
    fake=_fake_conv2d,
    kernel=native.bind(_conv_kernel),
)
# Arguments and result of sparse_linear_reference.
sparse_linear = Operator(
    "sparse_linear",
    sparse_linear_reference,
    schema=f"({_WEIGHT}{_LIMITS}) -> Tensor",
    fake=_fake_linear,
    kernel=native.bind(_linear_kernel),
)
