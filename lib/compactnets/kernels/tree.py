"""1-bit convolution along a tree of its output channels, 512 pixels to a machine word.

Channels whose kernels differ in few places are computed from each other (MST-compression,
arXiv:2308.13735). Bits of 512 output positions lie in one word, so that a differing place costs one
addition of single bits for all of them; kernels/src/tree/conv.hpp has the arithmetic.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compactnets.kernels import native
from compactnets.kernels.binary_layers import as_pair
from compactnets.kernels.channels import per_channel_if_any
from compactnets.kernels.geometry import conv_geometry, positions
from compactnets.kernels.operator import Operator

MOST_WEIGHTS = 16383  # of a kernel: its sums fit 16 bits


class PackedTree(NamedTuple):
    """places (E,): of each channel the places where it differs from its parent (all places if it
    has none), first those with w = -1, then those with w = +1; starts (2 out + 1): where these
    lists begin; plan (out, 2): channel and parent (-1: none), parents first; sums (out, taps): sum
    of the signs over the input channels. All int32."""

    places: Tensor
    starts: Tensor
    plan: Tensor
    sums: Tensor


def pack_tree(weight: Tensor, parent: Tensor) -> PackedTree:
    """Signs of weight (out, in, kh, kw) along a tree; parent (out,) integers, -1 at a root.

    Several roots are several trees; all -1 is the convolution without a tree. A place is the index
    in a flattened kernel. ValueError for shapes that do not fit, kernels of more than 16383
    weights and parents that do not end in a root.
    """
    if weight.dim() != 4 or weight.numel() == 0:
        raise ValueError(f"weight must be (out, in, kh, kw), not empty: got {tuple(weight.shape)}")
    if parent.shape != weight.shape[:1] or parent.is_floating_point():
        raise ValueError(
            f"parent must be {len(weight)} integers, got {parent.dtype} {parent.shape}"
        )
    if weight[0].numel() > MOST_WEIGHTS:
        raise ValueError(f"a kernel has {weight[0].numel()} weights, at most {MOST_WEIGHTS} fit")
    positive = (weight.detach() >= 0).flatten(1).cpu()
    parent = parent.cpu().long()
    plan = _parents_first(parent.tolist())
    same = (positive == positive[parent]) & (parent >= 0)[:, None]
    lists = [
        (chosen & ~same[j]).nonzero()[:, 0]
        for j in range(len(parent))
        for chosen in (~positive[j], positive[j])
    ]
    starts = torch.tensor([0, *(len(one) for one in lists)]).cumsum(0)
    sums = (2 * positive.int() - 1).view(weight.shape).sum(1).flatten(1)
    packed = (torch.cat(lists), starts, torch.tensor(plan), sums)
    return PackedTree(*(t.to(weight.device, torch.int32) for t in packed))


def _parents_first(parent: list[int]) -> list[tuple[int, int]]:
    """(channel, parent), breadth first from the roots."""
    children: list[list[int]] = [[] for _ in parent]
    plan = [(j, -1) for j, i in enumerate(parent) if i == -1]
    for j, i in enumerate(parent):
        if not -1 <= i < len(parent):
            raise ValueError(f"channel {j} has parent {i}: must be -1 or a channel")
        if i >= 0:
            children[i].append(j)
    for j, _ in plan:  # grows as it goes
        plan += [(child, j) for child in children[j]]
    if len(plan) != len(parent):
        raise ValueError(f"only {len(plan)} of {len(parent)} channels descend from a root")
    return plan


def unpack_tree(tree: PackedTree, shape: Sequence[int]) -> Tensor:
    """The signs of pack_tree as float32 of a shape (out, in, kh, kw)."""
    flat = torch.zeros(shape[0], shape[1] * shape[2] * shape[3], device=tree.sums.device)
    starts = tree.starts.tolist()
    for j, parent in tree.plan.tolist():
        if parent >= 0:
            flat[j] = flat[parent]
        begin, middle, end = starts[2 * j : 2 * j + 3]
        flat[j, tree.places[begin:middle].long()] = -1
        flat[j, tree.places[middle:end].long()] = 1
    return flat.view(*shape)


def _check(x, tree: PackedTree, scale, bias, input_shift, geometry) -> tuple[int, int, int, int]:
    """Shape of the result; TypeError for a wrong dtype, ValueError for what does not fit."""
    if x.dim() != 4 or x.shape[1] == 0:
        raise ValueError(f"x must be (N, C, H, W), got shape {tuple(x.shape)}")
    kernel_size, outputs = geometry[0], scale.shape[0]
    taps = kernel_size[0] * kernel_size[1]
    for name, value, dtype, shape in (
        ("x", x, torch.float32, x.shape),
        ("places", tree.places, torch.int32, tree.places.shape[:1]),
        ("starts", tree.starts, torch.int32, (2 * outputs + 1,)),
        ("plan", tree.plan, torch.int32, (outputs, 2)),
        ("sums", tree.sums, torch.int32, (outputs, taps)),
        ("scale", scale, torch.float32, (outputs,)),
        ("bias", bias, torch.float32, (outputs,)),
        ("input_shift", input_shift, torch.float32, (x.shape[1],)),
    ):
        if value is None:
            continue
        if value.dtype is not dtype:
            raise TypeError(f"{name} must be {str(dtype)[6:]}, got {value.dtype}")
        if tuple(value.shape) != tuple(shape):
            raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(value.shape)}")
        if value.device != x.device:
            raise ValueError(f"{name} is on {value.device}, x on {x.device}")
    if x.shape[1] * taps > MOST_WEIGHTS:
        raise ValueError(f"a kernel has {x.shape[1] * taps} weights, at most {MOST_WEIGHTS} fit")
    height, width = (
        positions(x.shape[2 + axis], *(values[axis] for values in geometry)) for axis in (0, 1)
    )
    return x.shape[0], outputs, height, width


def tree_conv2d_reference(
    x: Tensor,
    places: Tensor,
    starts: Tensor,
    plan: Tensor,
    sums: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    input_shift: Tensor | None = None,
    *,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
) -> Tensor:
    """y = scale * conv2d(sign(x + input_shift), weight) + bias with zero padding, in plain PyTorch.

    x (N, C, H, W) float32, any strides; places, starts, plan, sums of pack_tree; scale, bias (out,)
    and input_shift (C,) float32. sign(±0) = +1, sign(NaN) = -1. Returns float32 (N, out, H', W'),
    contiguous. The convolution is an exact integer; the product with scale and the sum with bias
    are rounded once each. Any device; no gradient. TypeError for a wrong dtype, ValueError for
    shapes, devices and geometry that do not fit.
    """
    tree = PackedTree(places, starts, plan, sums)
    geometry = conv_geometry(kernel_size, stride, padding, dilation)
    _check(x, tree, scale, bias, input_shift, geometry)
    weight = unpack_tree(tree, (len(scale), x.shape[1], *geometry[0]))
    shifted = x if input_shift is None else x + input_shift[:, None, None]
    signs = torch.where(shifted >= 0, 1.0, -1.0)
    with torch.autocast(x.device.type, enabled=False):
        dots = F.conv2d(signs, weight, None, *geometry[1:])
    y = dots.round() * scale[:, None, None]  # an FFT or Winograd algorithm is not exact
    return (y if bias is None else y + bias[:, None, None]).contiguous()


def _fake(
    x, places, starts, plan, sums, scale, bias=None, input_shift=None, *,
    kernel_size, stride=(1, 1), padding=(0, 0), dilation=(1, 1),
):  # fmt: skip
    geometry = conv_geometry(kernel_size, stride, padding, dilation)
    tree = PackedTree(places, starts, plan, sums)
    return x.new_empty(_check(x, tree, scale, bias, input_shift, geometry))


def _kernel(module: ModuleType):
    """The operator on the compiled module."""

    def run(
        x, places, starts, plan, sums, scale, bias=None, input_shift=None, *,
        kernel_size, stride=(1, 1), padding=(0, 0), dilation=(1, 1),
    ):  # fmt: skip
        geometry = conv_geometry(kernel_size, stride, padding, dilation)
        tree = PackedTree(places, starts, plan, sums)
        y = torch.empty(_check(x, tree, scale, bias, input_shift, geometry))
        tensors = (x, *tree, scale, bias, input_shift)
        dense = map(native.dense, tensors)
        module.tree_conv2d(*dense, native.dlpack(y), *geometry, torch.get_num_threads())
        return y

    return run


# Arguments and result of tree_conv2d_reference.
tree_conv2d = Operator(
    "tree_conv2d",
    tree_conv2d_reference,
    schema="(Tensor x, Tensor places, Tensor starts, Tensor plan, Tensor sums, Tensor scale, "
    "Tensor? bias=None, Tensor? input_shift=None, *, int[2] kernel_size, int[2] stride=1, "
    "int[2] padding=0, int[2] dilation=1) -> Tensor",
    fake=_fake,
    kernel=native.bind(_kernel),
)


class TreeConv2d(nn.Module):
    """y = scale * conv2d(sign(x + input_shift), sign(weight)) + bias along a tree of the outputs.

    The same numbers as BinaryConv2d, whose arguments these are but for groups (channels of
    different groups share no inputs) and parent (out,): the channel from which each is computed, -1
    for none. All state is in buffers, whose size depends on the tree: to load a state_dict build
    the layer with the same weight and parent. Inference only. ValueError for what does not fit.
    """

    weight_bits = 1
    activation_bits = 1
    places: Tensor
    starts: Tensor
    plan: Tensor
    sums: Tensor
    scale: Tensor
    bias: Tensor | None
    input_shift: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        parent: Tensor,
        scale: Tensor | None = None,
        *,
        bias: Tensor | None = None,
        input_shift: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
    ):
        super().__init__()
        for name, value in pack_tree(weight, parent)._asdict().items():
            self.register_buffer(name, value)
        self.out_channels, self.in_channels = weight.shape[:2]
        self.kernel_size = (weight.shape[2], weight.shape[3])
        self.stride = as_pair("stride", stride)
        self.padding = as_pair("padding", padding)
        self.dilation = as_pair("dilation", dilation)
        if scale is None:
            scale = torch.ones(self.out_channels, device=weight.device)
        self.register_buffer("scale", per_channel_if_any("scale", scale, self.out_channels))
        self.register_buffer("bias", per_channel_if_any("bias", bias, self.out_channels))
        self.register_buffer(
            "input_shift", per_channel_if_any("input_shift", input_shift, self.in_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return tree_conv2d(
            x.float() if x.is_floating_point() else x,
            *self.tree,
            self.scale,
            self.bias,
            self.input_shift,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )

    @property
    def tree(self) -> PackedTree:
        return PackedTree(self.places, self.starts, self.plan, self.sums)

    def sign_weight(self) -> Tensor:
        """The weights as ±1 in float32, (out, in, kh, kw)."""
        return unpack_tree(self.tree, (self.out_channels, self.in_channels, *self.kernel_size))

    def cost_weights(self) -> int:
        """Weights held in 1 bit (compactnets.cost): the root and every difference."""
        return len(self.places)

    def cost_macs(self, input_shape: Sequence[int], output_shape: Sequence[int]) -> int:
        """1-bit multiply-adds of one call along the tree, padding included."""
        images, _, height, width = output_shape
        return images * height * width * len(self.places)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, differences={len(self.places)}"
        )
