"""Sparse libraries that a user would otherwise call for pruned weights."""

import torch
from kernels.bench.peers import Call
from torch import Tensor


def mkl_csr(x: Tensor, weight: Tensor) -> Call:
    """torch's CSR matrix (MKL) times dense: x (C, pixels) -> (out, pixels)."""
    sparse = weight.to_sparse_csr()
    return lambda: sparse @ x


def scipy_csr(x: Tensor, weight: Tensor) -> Call | None:
    """scipy's CSR matrix times dense, one thread always."""
    try:
        from scipy.sparse import csr_matrix
    except ImportError:
        return None
    sparse, dense = csr_matrix(weight.numpy()), x.numpy()
    return lambda: torch.from_numpy(sparse @ dense)
