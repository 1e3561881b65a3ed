"""Vision transformers (ViT, arXiv:2010.11929; DeiT, arXiv:2012.12877) whose parts can be swapped.

Names of the parts follow timm, so that its weights load; norms come before attention and MLP.
"""

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn


@fx.wrap
def check_images(images: Tensor, size: int) -> Tensor:
    """images, if they are (N, channels, size, size); ValueError otherwise.

    Positions are learned for one size. A call of its own, so that torch.fx can follow the network.
    """
    if images.dim() != 4 or images.shape[-2:] != (size, size):
        raise ValueError(
            f"this network is made for images (N, channels, {size}, {size}), got "
            f"{tuple(images.shape)}: resize them or build it with another size"
        )
    return images


class Attention(nn.Module):
    """Multi-head attention (B, N, C) -> (B, N, C) with every intermediate in sight.

    q, k, v (B, heads, N, C / heads) pass through q_act, k_act, v_act, the attention map
    (B, heads, N, N), rows of which sum to 1, through attn_act: identities, for a method to replace
    or a hook to read. position changes the scores before `softmax` (relative bias, window mask).
    The two products have no weights; compactnets.cost books them on this module.
    """

    def __init__(self, dim: int, heads: int, position: nn.Module | None = None):
        super().__init__()
        if min(dim, heads) < 1 or dim % heads:
            raise ValueError(f"{heads} heads cannot share {dim} channels: heads must divide dim")
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_act, self.k_act, self.v_act = nn.Identity(), nn.Identity(), nn.Identity()
        self.position = nn.Identity() if position is None else position
        self.softmax = nn.Softmax(dim=-1)
        self.attn_act = nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = self.q_act(qkv[0]), self.k_act(qkv[1]), self.v_act(qkv[2])
        scores = self.position((q * self.scale) @ k.transpose(-2, -1))
        attention = self.attn_act(self.softmax(scores))
        return self.proj((attention @ v).transpose(1, 2).flatten(2))


def mlp(dim: int, hidden: int) -> nn.Sequential:
    """fc1 (dim -> hidden), GELU, fc2 (hidden -> dim)."""
    layers: dict[str, nn.Module] = {"fc1": nn.Linear(dim, hidden), "act": nn.GELU()}
    return nn.Sequential(OrderedDict(layers, fc2=nn.Linear(hidden, dim)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); (B, N, dim) -> (B, N, dim)."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int = 4, eps: float = 1e-6):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = mlp(dim, mlp_ratio * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Images (N, in_channels, size, size) -> one token per patch (N, (size / patch)^2, dim).

    Patches follow row by row; norm acts on the tokens.
    """

    def __init__(
        self, dim: int, patch: int, size: int, in_channels: int = 3, norm: nn.Module | None = None
    ):
        super().__init__()
        if patch < 1 or size % patch:
            raise ValueError(f"patches of {patch} pixels do not tile an image of {size}")
        self.size, self.side = size, size // patch
        self.proj = nn.Conv2d(in_channels, dim, patch, stride=patch)
        self.norm = nn.Identity() if norm is None else norm

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.proj(check_images(images, self.size)).flatten(2).transpose(1, 2))


class VisionTransformer(nn.Module):
    """patch_embed - class token (and distillation token) - blocks - norm - head.

    Images (N, in_channels, size, size) -> logits (N, classes). With distilled=True a second token
    is read by a second classifier, `head_dist`; forward then gives the mean of the two logits (as
    DeiT does at test time) and `both` the pair, for a loss with a teacher (DeiT, section 4).
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        patch: int,
        size: int,
        classes: int,
        mlp_ratio: int = 4,
        distilled: bool = False,
        in_channels: int = 3,
    ):
        super().__init__()
        if min(depth, classes, mlp_ratio) < 1:
            raise ValueError(
                "depth, classes and mlp_ratio must be positive, got "
                f"{depth}, {classes} and {mlp_ratio}"
            )
        self.distilled = distilled
        self.patch_embed = PatchEmbed(dim, patch, size, in_channels)
        tokens = self.patch_embed.side**2 + 1 + distilled
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, dim)) if distilled else None
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, mlp_ratio) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, classes)
        self.head_dist = nn.Linear(dim, classes) if distilled else None
        initialize_transformer(self)

    def tokens(self, images: Tensor) -> Tensor:
        """Tokens behind the last norm (N, tokens, dim): class, distillation if any, patches."""
        patches = self.patch_embed(images)
        first = [self.cls_token, self.dist_token] if self.distilled else [self.cls_token]
        front = [token.expand(patches.shape[0], -1, -1) for token in first]
        return self.norm(self.blocks(torch.cat([*front, patches], 1) + self.pos_embed))

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(class logits, distillation logits). ValueError for a network without the token."""
        if self.head_dist is None:
            raise ValueError("this network has no distillation token: build it with distilled=True")
        tokens = self.tokens(images)
        return self.head(tokens[:, 0]), self.head_dist(tokens[:, 1])

    def forward(self, images: Tensor) -> Tensor:
        if self.distilled:
            logits, distilled = self.both(images)
            return (logits + distilled) / 2
        return self.head(self.tokens(images)[:, 0])


def initialize_transformer(model: nn.Module) -> None:
    """DeiT's start: weights, tokens and positions from N(0, 0.02) cut at two deviations, biases 0.

    Draws from torch's global generator.
    """
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.LayerNorm | nn.Conv2d):
                continue  # 1 and 0; the patch convolution keeps torch's start
            if name == "bias":
                nn.init.zeros_(parameter)
            else:
                nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04)


def deit_cifar(
    dim: int = 64,
    depth: int = 4,
    heads: int = 2,
    patch: int = 4,
    classes: int = 10,
    *,
    mlp_ratio: int = 4,
    distilled: bool = False,
    size: int = 32,
    in_channels: int = 3,
) -> VisionTransformer:
    """DeiT-like network for images of size x size; (size / patch)^2 + 1 tokens of dim channels."""
    return VisionTransformer(
        dim, depth, heads, patch, size, classes, mlp_ratio, distilled, in_channels
    )


def deit_tiny(classes: int = 1000, distilled: bool = False) -> VisionTransformer:
    """DeiT-Tiny, 16-pixel patches of 224x224 images: 5,717,416 parameters, 1000 classes."""
    return VisionTransformer(192, 12, 3, 16, 224, classes, distilled=distilled)


def deit_small(classes: int = 1000, distilled: bool = False) -> VisionTransformer:
    """DeiT-Small, 16-pixel patches of 224x224 images: 22,050,664 parameters, 1000 classes."""
    return VisionTransformer(384, 12, 6, 16, 224, classes, distilled=distilled)


def timm_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of timm's DeiT or Swin under the names used here, for load_state_dict."""
    renamed = (("relative_position_bias_table", "position.table"), ("head.fc.", "head."))
    found = {}
    for name, value in state.items():
        for theirs, ours in renamed:
            name = name.replace(theirs, ours)
        found[name] = value
    return found
