"""Who reads whose output in a network: what folding, slicing and sorting channels need to know."""

from collections import Counter

from torch import fx, nn


class _Tracer(fx.Tracer):
    """Keeps convolutions and linear layers whole, subclasses of them too."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d | nn.Linear) or super().is_leaf_module(
            m, module_qualified_name
        )


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
