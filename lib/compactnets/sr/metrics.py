"""PSNR and SSIM as super-resolution papers take them: on 8-bit images, luma only, no border.

scores = train.evaluate(
    net, test, purpose="EDSR, seed 0", metrics={"psnr": partial(sr.psnr, border=2)}
)

Luma is that of BT.601 in 16 .. 235 (data.resize.luma), not rounded to whole levels, as EDSR's code
takes it, while the range both formulas ask for is that of 8 bits, 1 (255 levels). MATLAB's
rgb2ycbcr rounds, which moves PSNR by about 0.01 dB, and older tables compare a grey file's levels
as they are: 20 log10(255 / 219) = 1.32 dB less for bridge of Set14, 0.09 dB for the set. EDSR's
code makes it RGB first, as is done here.
"""

from torch import Tensor

from compactnets.data.resize import luma, shave

_WINDOW = 11  # pixels; the Gaussian's sigma is 1.5 (Wang et al., IEEE TIP 13(4), 2004)


def psnr(output: Tensor, target: Tensor, border: int) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image: images (N, 3, H, W) in [0, 1] -> (N,) fp64.

    Infinite where the two agree after rounding. border: pixels left out on each side, the scale in
    most papers. ValueError: shapes differ, or nothing is left inside the border.
    """
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,  # three seconds, needed here only
    )

    pair = _seen(output, target, border)
    return peak_signal_noise_ratio(*pair, data_range=1.0, reduction="none", dim=(1, 2, 3))


def ssim(output: Tensor, target: Tensor, border: int) -> Tensor:
    """Structural similarity of each image, at most 1: images (N, 3, H, W) in [0, 1] -> (N,) fp64.

    Gaussian window 11 x 11 with sigma 1.5, K1 = 0.01, K2 = 0.03; mean over the windows that lie
    inside the image, as in the authors' MATLAB code (torchmetrics' mean counts windows over a
    mirrored border as well). Computed in fp32, ten times as fast as fp64: good to 1e-4, and to 1e-5
    on photographs. ValueError: shapes differ, or no window fits inside the border.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    one, other = _seen(output, target, border)
    if min(one.shape[-2:]) < _WINDOW:
        raise ValueError(
            f"SSIM needs {_WINDOW} x {_WINDOW} pixels inside a border of {border}, "
            f"got images of {output.shape[-2]} x {output.shape[-1]}"
        )
    _, everywhere = structural_similarity_index_measure(
        one.float(),
        other.float(),
        sigma=1.5,
        data_range=1.0,
        k1=0.01,
        k2=0.03,
        reduction="none",
        return_full_image=True,
    )
    return shave(everywhere, _WINDOW // 2).double().mean(dim=(1, 2, 3))


def _seen(output: Tensor, target: Tensor, border: int) -> tuple[Tensor, Tensor]:
    """Both images as a viewer gets them: 8 bits, then luma (N, 1, H', W') fp64 in [0, 1]."""
    if output.shape != target.shape or output.ndim != 4:
        raise ValueError(
            f"two batches of images of one shape (N, 3, H, W) are compared, "
            f"got {tuple(output.shape)} and {tuple(target.shape)}"
        )
    pair = [
        shave(luma((images.double().clamp(0, 1) * 255).round() / 255), border)
        for images in (output, target)
    ]
    return pair[0], pair[1]
