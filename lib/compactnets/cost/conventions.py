"""How papers turn counts into one figure. Each function names the convention it follows.

Throughout: one op = one multiply-add of one sample; batch normalization, activations and
additions are free unless said otherwise.
"""

from compactnets.cost.table import Costs


def ops_bireal(costs: Costs) -> float:
    """BOPs / 64 + real MACs: a 64-bit word holds 64 binary multiply-adds.

    Bi-Real Net (arXiv:1808.00278, section 4) and most binary networks after it. Only layers with
    1-bit weights *and* 1-bit activations count as BOPs; a 1-bit weight against a real activation
    is still a real multiply-add.
    """
    return costs.bops() / 64 + costs.real_macs


def bops_product(costs: Costs) -> int:
    """Sum of MACs * weight_bits * activation_bits; an fp32 layer counts 32 * 32 = 1024 a MAC.

    The leading term of UNIQ (arXiv:1804.10969), without its accumulator's width; what
    mixed-precision papers report as bit operations.
    """
    return sum(layer.macs * layer.weight_bits * layer.activation_bits for layer in costs)


def macs_thop(costs: Costs) -> int:
    """MACs + bias additions of convolutions + 2 per batch-normalized element.

    What the counter `thop` prints as "FLOPs" (pooling left out here), and so what many pruning
    papers report.
    """
    return costs.macs + costs.elementwise


def storage_bits(costs: Costs, rest_bits: int = 32, rest: bool = True) -> int:
    """Bits that hold the parameters: every weight its weight_bits, all others rest_bits each.

    With the defaults Bi-Real Net's rule: 1 bit per binary weight, 32 for everything else.
    rest=False leaves out biases, scales and normalizations, as some tables do. The index overhead
    of sparse formats is in Costs.bytes, not here.
    """
    weights = sum(layer.weights * layer.weight_bits for layer in costs)
    others = sum(layer.params - layer.weights for layer in costs)
    return weights + (others * rest_bits if rest else 0)
