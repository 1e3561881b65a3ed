"""What a student network of super-resolution is trained on beside the images."""

import torch
import torch.nn.functional as F
from torch import Tensor


def structure(features: Tensor) -> Tensor:
    """phi(F) = normalize_2(vec(mean over c of F_c^2)): (N, C, H, W) -> (N, H W) of length 1.

    Where each image's features are large, whatever their sign and scale; 0 where they all vanish.
    fp32 at least: features in units of 255 would leave fp16 when squared.
    """
    if features.ndim != 4:
        raise ValueError(f"features are (N, C, H, W), got {tuple(features.shape)}")
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return F.normalize(features.square().mean(dim=1).flatten(1), dim=1)


def structure_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    """mean((phi(F_s) - phi(F_t))^2) over images and pixels: a scalar in [0, 2 / (H W)].

    F are the features before the up-sampler (EDSR.features), (N, C, H, W); C may differ. Gradients
    reach the student only. DDTB (arXiv:2203.03844) weighs it by 1000 beside an L1 loss of images
    in 0 .. 255. ValueError: batches or sizes differ.
    """
    if student.shape[:1] + student.shape[2:] != teacher.shape[:1] + teacher.shape[2:]:
        raise ValueError(
            f"features of the same images and size are compared, got {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}"
        )
    return F.mse_loss(structure(student), structure(teacher.detach()))
