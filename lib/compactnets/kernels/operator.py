"""An operator: a reference in PyTorch, the compiled kernel behind it, and the short way between."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch._C import _functorch  # pyright: ignore[reportAttributeAccessIssue]


class Operator:
    """torch.ops.compactnets.<name>, as a function.

    reference computes it in plain PyTorch, on any device; fake gives its result's shape, dtype and
    strides from the arguments; kernel is its compiled form for the CPU, None where there is none.
    schema: the signature in PyTorch's notation, with the reference's argument names.

    A call goes through PyTorch's dispatcher wherever somebody listens there: torch.compile, fake
    tensors, dispatch modes (operation counters), functorch, autograd (which refuses: these are
    operators for inference). Plain tensors on the CPU take the short way to the kernel, which saves
    some microseconds of a call.
    """

    def __init__(
        self,
        name: str,
        reference: Callable[..., Tensor],
        *,
        schema: str,
        fake: Callable[..., Tensor],
        kernel: Callable[..., Tensor] | None,
    ):
        self.reference = reference
        self.kernel = kernel
        self.op = torch.library.custom_op(
            f"compactnets::{name}", reference, mutates_args=(), schema=schema
        )
        self.op.register_fake(fake)
        if kernel is not None:  # as a plain implementation: register_kernel would wrap it once more
            torch.library.impl(f"compactnets::{name}", "CPU")(kernel)
        self.__doc__ = reference.__doc__

    def __call__(self, x: Tensor, *args, **kwargs) -> Tensor:
        if not self.is_plain(x) or (
            torch.is_grad_enabled() and _wants_gradient(*args, *kwargs.values())
        ):
            return self.op(x, *args, **kwargs)
        return self.kernel(x, *args, **kwargs)  # pyright: ignore[reportOptionalCall]

    def is_plain(self, x: Tensor) -> bool:
        """Whether a call with x may take the short way, as far as x decides.

        A layer that has checked its own tensors before may then go to its compiled form directly.
        """
        return not (
            torch.compiler.is_compiling()
            or self.kernel is None
            or type(x) is not Tensor
            or not x.is_cpu
            or (x.requires_grad and torch.is_grad_enabled())
            or torch._C._len_torch_dispatch_stack() > 0
            or _functorch.peek_interpreter_stack() is not None
        )


def _wants_gradient(*values: object) -> bool:
    return any(isinstance(value, Tensor) and value.requires_grad for value in values)
