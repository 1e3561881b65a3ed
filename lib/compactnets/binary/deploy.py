"""The trained binary network on packed bits: kernels in place of layers, normalisation folded."""

import copy

import torch
from torch import Tensor, nn

from compactnets import kernels
from compactnets.binary.convert import binary_layers, replace
from compactnets.binary.layers import BinaryConv2d, BinaryLayer, BinaryLinear
from compactnets.binary.scales import check_binarizer
from compactnets.binary.ste import hard_sign
from compactnets.models.graph import affine, sole_readers


def deploy(model: nn.Module, method: object = None) -> nn.Module:
    """A copy in which every 1-bit layer runs on its packed kernel (kernels.BinaryConv2d, -Linear).

    The shift before sign, the scale alpha and, behind a convolution, a batch normalisation that
    alone reads the result become part of the kernel call; a layer's rescale stays behind it.
    Outputs equal the trained network's up to the rounding of float32; an activation within that
    rounding of 0 may take the other sign.
    ValueError if the model is in training mode (its normalisation would still move), has no 1-bit
    layer, or, with a method given, was prepared by another one.
    """
    if any(module.training for module in model.modules()):
        raise ValueError("the model is in training mode: call model.eval() before deploying it")
    model = copy.deepcopy(model)
    layers = dict(binary_layers(model))
    if not layers:
        raise ValueError(f"{type(model).__name__} has no 1-bit layer: prepare and train it first")
    _check_method(layers, method)
    norms = following_norms(model)
    for name, layer in layers.items():
        norm = norms.get(name)
        replace(model, name, pack(layer, model.get_submodule(norm) if norm else None))
        if norm:
            replace(model, norm, nn.Identity())
    return model.eval()  # the new layers too


def _check_method(layers: dict[str, BinaryLayer], method: object) -> None:
    wanted = type(method).__name__
    for name, layer in layers.items():
        if method is not None and layer.method != wanted:
            raise ValueError(
                f"layer {name} was prepared by {layer.method or 'no method'}, not by {wanted}: "
                "deploy a network with the method that prepared it"
            )


@torch.no_grad()
def pack(layer: BinaryLayer, norm: nn.Module | None = None) -> nn.Module:
    """One trained layer, with the normalisation after it if given, as a packed kernel layer.

    ValueError if the layer still trains with something else than signs (its binarizer gives no
    scaled signs, or its activation in eval mode no signs).
    """
    check_binarizer(layer.binarizer, layer.weight)
    _check_activation(layer)
    scale: Tensor = layer.binarizer.scale(layer.weight)
    w_hat = layer.binarizer(layer.weight)  # whose signs need not be those of the latent weights
    if isinstance(layer, BinaryLinear):
        bias = layer.bias if layer.rescale is None else None
        packed: nn.Module = kernels.BinaryLinear(w_hat, scale, bias=bias, input_shift=layer.shift)
        return packed if layer.rescale is None else Rescaled(packed, layer.rescale, layer.bias)
    bias = None
    if norm is not None:
        gain, bias = affine(norm)
        scale = scale * gain
    packed = kernels.BinaryConv2d(
        w_hat,
        scale,
        bias=bias,
        input_shift=layer.shift,
        stride=layer.stride,
        padding=_padding(layer),
        dilation=layer.dilation,
        groups=layer.groups,
    )
    return packed if layer.rescale is None else Rescaled(packed, layer.rescale)


class Rescaled(nn.Module):
    """rescale(packed(x), x) + bias: for scales that depend on the input or on the place, which no
    kernel folds."""

    traced_whole = True  # models.graph: a scale may look at the size of what it gets

    def __init__(self, packed: nn.Module, rescale: nn.Module, bias: Tensor | None = None):
        super().__init__()
        self.packed, self.rescale = packed, rescale
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        y = self.rescale(self.packed(x), x)
        return y if self.bias is None else y + self.bias


def _check_activation(layer: BinaryLayer) -> None:
    channels = layer.in_features if isinstance(layer, BinaryLinear) else layer.in_channels
    x = torch.linspace(-3, 3, 7).to(layer.weight).view(-1, 1).repeat(1, channels)
    x[:, ::2] *= -1
    if isinstance(layer, BinaryConv2d):
        x = x.view(7, channels, 1, 1)
    if not torch.equal(layer.activation(x), hard_sign(x)):
        raise ValueError(
            f"{layer.activation!r} returns something else than signs: finish its training (an "
            "annealed part must have reached 0) before packing the layer into bits"
        )


def _padding(layer: nn.Conv2d) -> tuple[int, int]:
    """Zeros added on each side; ValueError for "same" padding that is not equal on both sides."""
    if layer.padding == "valid":
        return 0, 0
    if not isinstance(layer.padding, str):
        return layer.padding  # type: ignore[return-value]
    total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    if any(t % 2 for t in total):
        raise ValueError(f'{layer}: "same" padding of an even kernel cannot be packed; pad apart')
    return total[0] // 2, total[1] // 2


def following_norms(model: nn.Module) -> dict[str, str]:
    """1-bit layer -> the batch normalisation that is the only reader of its output.

    Both must be called exactly once, or folding one call would change another, and the
    normalisation must use running statistics. Empty for a network that torch.fx cannot trace; its
    normalisations then stay what they are.
    """
    found = {}
    for name, reader in sole_readers(model).items():
        norm = model.get_submodule(reader)
        layer = model.get_submodule(name)
        folds = isinstance(layer, BinaryConv2d) and layer.rescale is None
        if folds and isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None:
            found[name] = reader
    return found
