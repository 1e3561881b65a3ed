"""Counts what one forward pass of one sample costs, layer by layer.

Counted, wherever it is called from: convolutions (1-3 d, grouped, transposed), linear layers,
recurrent ones, matrix products (matmul, bmm, einsum) and scaled dot-product attention, by the
formulas of torch.utils.flop_counter (2 FLOPs = 1 MAC; a causal mask is not discounted). An
operation belongs to the innermost module that runs it. Not counted as MACs: biases, normalization,
activations, pooling, look-ups (Embedding), elementwise products, cdist, FFT, interpolation.

A module may say more about itself:

    weight_bits, activation_bits   widths of its two operands, 32 if absent. weight_bits also says
                                   how the parameter `weight` (or in_proj_weight) is stored
    cost_macs(input_shape, output_shape) -> int
                                   MACs of one call; replaces what its own operations and those of
                                   its children would count (layers on compiled kernels, masks)
    cost_weights() -> int          weights it stores in weight_bits, where they are packed into
                                   buffers or only a part of `weight` is kept; floating-point
                                   buffers then count as parameters (scales)
    cost_bytes() -> int            bytes it stores, indices included (sparse formats)
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from compactnets.cost.table import Costs, LayerCost

_WEIGHT_NAMES = ("weight", "in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
_ATEN = torch.ops.aten
# What torch's registry lacks: 2 FLOPs per element of the matrix or vector, or as for mm.
_FORMULAS = {
    **flop_registry,
    _ATEN.mv: lambda a, v, **_: 2 * a.numel(),
    _ATEN.addmv: lambda bias, a, v, **_: 2 * a.numel(),
    _ATEN.dot: lambda a, b, **_: 2 * a.numel(),
    _ATEN._int_mm: flop_registry[_ATEN.mm],
}
_BATCH_NORMS = nn.modules.batchnorm._BatchNorm
_CONVOLUTIONS = nn.modules.conv._ConvNd


@dataclass
class _Tally:
    """What the forward pass told about one module."""

    calls: int = 0
    macs: int = 0
    elementwise: int = 0
    traffic: int = 0  # elements read and written
    input_shape: tuple[int, ...] | None = None
    output_shape: tuple[int, ...] | None = None


class _Watch(TorchDispatchMode):
    """Books every counted operation on the module that is running."""

    def __init__(self, tallies: dict[nn.Module, _Tally], root: nn.Module):
        super().__init__()
        self.tallies = tallies
        self.running = [root]
        self.told: list[nn.Module] = []  # modules inside which operations are not counted

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True would import the compiler (seconds); count() makes it stand aside

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet not in _FORMULAS:
            decomposed = func.decompose(*args, **kwargs)
            if decomposed is not NotImplemented:
                return decomposed
        out = func(*args, **kwargs)
        if packet in _FORMULAS and not self.told:
            flops = _FORMULAS[packet](*args, **kwargs, out_val=out)
            self.tallies[self.running[-1]].macs += int(flops) // 2
        return out

    def enter(self, module: nn.Module, args, kwargs) -> None:
        self.running.append(module)
        if hasattr(module, "cost_macs"):
            self.told.append(module)

    def leave(self, module: nn.Module, args, kwargs, output) -> None:
        self.running.pop()
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        outputs = [t for t in tree_leaves(output) if isinstance(t, Tensor)]
        tally = self.tallies[module]
        shapes = [tuple(ts[0].shape) if ts else None for ts in (inputs, outputs)]
        if not tally.calls:
            tally.input_shape, tally.output_shape = shapes
        tally.calls += 1
        tally.traffic += sum(t.numel() for t in (*inputs, *outputs))
        written = sum(t.numel() for t in outputs)
        if isinstance(module, _BATCH_NORMS):
            tally.elementwise += 2 * written
        elif isinstance(module, _CONVOLUTIONS) and module.bias is not None:
            tally.elementwise += written
        if self.told and self.told[-1] is module:
            self.told.pop()
            if not self.told:
                tally.macs += int(module.cost_macs(*shapes))  # type: ignore[operator]


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients; attention and recurrent layers as plain matrix products,
    because their fused kernels have no formula in torch's registry. All as before afterwards."""
    training = [module for module in model.modules() if module.training]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            stack.enter_context(torch.no_grad())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if "torch._dynamo" in sys.modules:  # or else nothing in the model can be compiled
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            if any(isinstance(module, nn.RNNBase) for module in model.modules()):
                for backend in (torch.backends.mkldnn, torch.backends.cudnn):
                    before = backend.set_flags(_enabled=False)
                    stack.callback(backend.set_flags, before[0])
            model.eval()
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module in training:
            module.training = True


def _forward(model: nn.Module, example: Any) -> Any:
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def _first_sample(x: Any) -> Any:
    return x[:1] if isinstance(x, Tensor) and x.dim() else x


def _bits(module: nn.Module, name: str, attribute: str) -> int:
    bits = getattr(module, attribute, 32)
    if isinstance(bits, bool) or int(bits) != bits or not 1 <= bits <= 64:
        raise ValueError(f"{attribute} of layer {name!r} must be an integer in 1..64, got {bits}")
    return int(bits)


def _stored(module: nn.Module, seen: set[int]) -> tuple[int, int]:
    """(weights, other parameters) that the module itself holds and nobody before it held."""
    weights = others = 0
    for name, parameter in module.named_parameters(recurse=False):
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        if name in _WEIGHT_NAMES and parameter.dim() > 1:  # normalizations have vectors
            weights += parameter.numel()
        else:
            others += parameter.numel()
    if hasattr(module, "cost_weights"):
        weights = int(module.cost_weights())  # type: ignore[operator]
        buffers = module.named_buffers(recurse=False)
        others += sum(b.numel() for _, b in buffers if b.is_floating_point())
    return weights, others


def _layer(name: str, module: nn.Module, tally: _Tally, seen: set[int]) -> LayerCost:
    weights, others = _stored(module, seen)
    weight_bits = _bits(module, name, "weight_bits")
    if hasattr(module, "cost_bytes"):
        stored = int(module.cost_bytes())  # type: ignore[operator]
    else:
        stored = -(-weights * weight_bits // 8) + 4 * others
    return LayerCost(
        name=name or "(model)",
        kind=type(module).__name__,
        input_shape=tally.input_shape,
        output_shape=tally.output_shape,
        calls=tally.calls,
        params=weights + others,
        weights=weights,
        macs=tally.macs,
        weight_bits=weight_bits,
        activation_bits=_bits(module, name, "activation_bits"),
        stored_bytes=stored,
        elementwise=tally.elementwise,
        traffic_bytes=4 * (tally.traffic + weights + others) if tally.macs else 0,
    )


def count(model: nn.Module, example: Any, *, first_sample: bool = True) -> Costs:
    """Parameters, MACs and bytes of every layer for one sample (conventions: module docstring).

    example: a tensor, a tuple of arguments or a dict of keyword arguments for model.forward. Every
    tensor in it is cut to its first entry along dimension 0; first_sample=False runs the example
    as it is and counts all of it (graphs, point clouds). One real forward pass in evaluation mode;
    the model is left as it was. With a model and example on the "meta" device nothing is computed.

    Rows: modules that hold parameters or run counted operations. A module called twice counts its
    MACs twice, a shared parameter counts once, where it first occurs.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    model = getattr(model, "_orig_mod", model)  # the layer names without torch.compile's prefix
    if first_sample:
        example = tree_map(_first_sample, example)
    modules = {module: name for name, module in model.named_modules()}
    tallies = {module: _Tally() for module in modules}
    watch = _Watch(tallies, model)
    with ExitStack() as stack:
        stack.enter_context(_undisturbed(model))
        for module in modules:
            before = module.register_forward_pre_hook(watch.enter, with_kwargs=True)
            after = module.register_forward_hook(watch.leave, with_kwargs=True)
            stack.callback(before.remove)
            stack.callback(after.remove)
        stack.enter_context(watch)
        _forward(model, example)
    seen: set[int] = set()
    layers = [_layer(name, m, tallies[m], seen) for m, name in modules.items()]
    return Costs(tuple(layer for layer in layers if layer.params or layer.macs))
