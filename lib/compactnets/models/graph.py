"""Who reads whose output in a network: what folding, slicing and sorting channels need to know."""

import copy
from collections import Counter

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class _Tracer(fx.Tracer):
    """Keeps whole: convolutions and linear layers, subclasses of them too, layers on compiled
    kernels, and modules that say so by an attribute `traced_whole`."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        whole = isinstance(m, nn.Conv2d | nn.Linear) or getattr(m, "traced_whole", False)
        kernel = type(m).__module__.startswith("compactnets.kernels.")
        return whole or kernel or super().is_leaf_module(m, module_qualified_name)


def trace(model: nn.Module) -> fx.Graph:
    """The network's calls in order. ValueError for a network that torch.fx cannot follow."""
    try:
        return _Tracer().trace(model)
    except Exception as error:  # fx raises whatever the model's Python raises on a proxy
        raise ValueError(
            f"torch.fx cannot follow {type(model).__name__}.forward ({error}): it must not branch "
            "on its input"
        ) from error


def called_once(graph: fx.Graph) -> set[str]:
    """Names of the modules that the network calls exactly once."""
    counts = Counter(node.target for node in graph.nodes if node.op == "call_module")
    return {str(name) for name, count in counts.items() if count == 1}


def sole_readers(model: nn.Module) -> dict[str, str]:
    """Module -> the module that alone reads its output; both are called exactly once.

    Empty for a network that torch.fx cannot follow.
    """
    try:
        graph = trace(model)
    except ValueError:
        return {}
    once, found = called_once(graph), {}
    for node in graph.nodes:
        readers = list(node.users)
        if node.op != "call_module" or node.target not in once or len(readers) != 1:
            continue
        if readers[0].op == "call_module" and readers[0].target in once:
            found[node.target] = readers[0].target
    return found


@torch.no_grad()
def affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """(gain, offset) (channels,) of a batch normalization in eval mode: y = gain x + offset."""
    gain = torch.rsqrt(norm.running_var + norm.eps)  # type: ignore[operator]
    if norm.affine:
        gain = gain * norm.weight  # type: ignore[operator]
    offset = -norm.running_mean * gain  # type: ignore[operator]
    return gain, offset + norm.bias if norm.affine else offset


def fold_norms(model: nn.Module) -> nn.Module:
    """A copy in which every batch normalization that alone reads a real convolution is part of it.

    Same outputs up to float32 rounding, fewer passes over memory. Subclasses of nn.Conv2d stay as
    they are, and so does a network that torch.fx cannot follow. ValueError in training mode.
    """
    if any(module.training for module in model.modules()):
        raise ValueError("the model is in training mode: call model.eval() before folding norms")
    readers = sole_readers(model)
    model = copy.deepcopy(model)
    for name, reader in readers.items():
        conv, norm = model.get_submodule(name), model.get_submodule(reader)
        if type(conv) is not nn.Conv2d or not isinstance(norm, nn.BatchNorm2d):
            continue
        if norm.running_var is not None:
            model.set_submodule(name, fuse_conv_bn_eval(conv, norm))
            model.set_submodule(reader, nn.Identity())
    return model.eval()  # the new modules too
