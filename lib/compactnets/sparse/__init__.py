"""Weight sparsity: masks, the patterns that a processor can use, and how a network wears them.

run = train.fit(net, images, recipe, seed=0, method=OneByN(n=4, sparsity=0.5))
fast = OneByN(n=4).deploy(run.model)  # the same outputs from packed blocks
"""

from compactnets.sparse.convert import masked_layers, prunable, survey
from compactnets.sparse.deploy import deploy, deploy_dense
from compactnets.sparse.layers import MaskedConv2d
from compactnets.sparse.magnitude import Magnitude
from compactnets.sparse.one_by_n import OneByN, RandomOneByN
from compactnets.sparse.rearrange import rearrange, rearrangeable

__all__ = [
    "Magnitude",
    "MaskedConv2d",
    "OneByN",
    "RandomOneByN",
    "deploy",
    "deploy_dense",
    "masked_layers",
    "prunable",
    "rearrange",
    "rearrangeable",
    "survey",
]
