"""PSNR and SSIM: against formulas written out, against torchmetrics, against the literature."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional import image as reference

from compactnets import sr, train
from compactnets.data import registry, super_resolution
from compactnets.data.patches import PatchSet
from compactnets.data.resize import enlarge


def picture(*shape: int, seed: int = 0) -> torch.Tensor:
    """Whole gray levels in [0, 1], as PatchSet gives them."""
    levels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))
    return levels.float() / 255


def noisy(images: torch.Tensor, levels: float, seed: int = 1) -> torch.Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return images + noise * levels / 255


def y_levels(images: torch.Tensor) -> torch.Tensor:
    """BT.601 luma in 0 .. 255 of images rounded to 8 bits, written out: (N, H, W) fp64."""
    r, g, b = (images.double() * 255).round().clamp(0, 255).unbind(1)
    return 16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255


@pytest.mark.parametrize("border", [0, 2, 4])
def test_psnr_is_the_formula_on_luma_levels_inside_the_border(border):
    target = picture(3, 3, 20, 26)
    output = noisy(target, 12)
    error = (y_levels(output) - y_levels(target))[
        :, border : 20 - border, border : 26 - border
    ].square()
    expected = 10 * (255**2 / error.mean((1, 2))).log10()
    assert torch.allclose(sr.psnr(output, target, border), expected, rtol=0, atol=1e-5)
    direct = reference.peak_signal_noise_ratio(y_levels(output), y_levels(target), 255.0)
    if border == 0:
        whole = -10 * (10 ** (-sr.psnr(output, target, 0) / 10)).mean().log10()
        assert float(whole) == pytest.approx(float(direct), abs=1e-5)


@pytest.mark.parametrize("levels", [1, 7, 40])
def test_an_offset_of_d_levels_is_d_times_219_255ths_in_luma(levels):
    target = picture(1, 3, 12, 12) * 200 / 255
    target = (target * 255).floor() / 255
    # 65.481 + 128.553 + 24.966 = 219: gray d is luma 219 d / 255.
    expected = 20 * math.log10(255 / (levels * 219 / 255))
    found = sr.psnr(target + levels / 255, target, 2)
    assert float(found) == pytest.approx(expected, abs=1e-5)


def written_out_ssim(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Wang et al.'s SSIM of images (N, H, W) in 0 .. 255, window by window: (N,)."""
    place = torch.arange(-5, 6, dtype=torch.float64)
    window = (-(place[:, None] ** 2 + place**2) / (2 * 1.5**2)).exp()
    window = window / window.sum()

    def mean(x):
        return (x.unfold(1, 11, 1).unfold(2, 11, 1) * window).sum((-1, -2))

    x, y = mean(output), mean(target)
    xx, yy = mean(output**2) - x**2, mean(target**2) - y**2
    xy = mean(output * target) - x * y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    found = (2 * x * y + c1) * (2 * xy + c2) / ((x**2 + y**2 + c1) * (xx + yy + c2))
    return found.mean((1, 2))


@pytest.mark.parametrize("border", [0, 3])
def test_ssim_is_the_formula_over_windows_inside_the_border(border):
    target = F.avg_pool2d(picture(2, 3, 30, 36), 3, 1, 1)
    output = noisy(target, 15)
    inside = [y_levels(x)[:, border : 30 - border, border : 36 - border] for x in (output, target)]
    assert torch.allclose(sr.ssim(output, target, border), written_out_ssim(*inside), atol=1e-5)


def test_torchmetrics_own_mean_also_counts_windows_that_hang_over_the_border():
    target = picture(1, 3, 24, 24)
    output = noisy(target, 30)
    pair = [(y_levels(x) / 255)[:, None] for x in (output, target)]
    theirs, everywhere = reference.structural_similarity_index_measure(
        *pair, data_range=1.0, return_full_image=True
    )
    ours = float(sr.ssim(output, target, 0))
    assert ours == pytest.approx(float(everywhere[..., 5:-5, 5:-5].mean()))
    assert float(theirs) == pytest.approx(float(everywhere.mean()))
    assert abs(ours - float(theirs)) > 1e-4


def test_equal_images_have_infinite_psnr_and_ssim_one():
    target = picture(2, 3, 16, 16)
    invisible = target + 0.4 / 255
    for output in (target, invisible):
        assert sr.psnr(output, target, 2).tolist() == [math.inf] * 2
        assert sr.ssim(output, target, 2).tolist() == pytest.approx([1.0] * 2)


@given(seed=st.integers(0, 50), levels=st.floats(2, 40))
@settings(max_examples=10, deadline=None)
def test_both_are_symmetric_blind_to_mirroring_and_worse_with_more_noise(seed, levels):
    target = F.avg_pool2d(picture(1, 3, 18, 20, seed=seed), 3, 1, 1)
    output, worse = noisy(target, levels), noisy(target, 2 * levels)
    for metric in (partial(sr.psnr, border=2), partial(sr.ssim, border=2)):
        value = float(metric(output, target))
        assert float(metric(target, output)) == pytest.approx(value, abs=1e-4)
        mirrored = metric(output.flip(2, 3), target.flip(2, 3))
        assert float(mirrored) == pytest.approx(value, abs=1e-4)
        assert float(metric(worse, target)) < value


def test_what_leaves_the_range_is_clamped_and_the_border_is_not_seen():
    target = picture(1, 3, 20, 20).round()
    assert sr.psnr(target * 3 - 1, target, 0).item() == math.inf
    output = noisy(target, 10)
    framed = output.clone()
    framed[..., :3, :] = framed[..., -3:, :] = framed[..., :3] = framed[..., -3:] = 0.5
    for metric in (sr.psnr, sr.ssim):
        assert torch.equal(metric(framed, target, 3), metric(output, target, 3))
        assert not torch.equal(metric(framed, target, 2), metric(output, target, 2))


def test_a_batch_is_scored_image_by_image_and_stays_untouched():
    target = picture(3, 3, 16, 16)
    output = noisy(target, 9)
    kept = output.clone()
    for metric in (sr.psnr, sr.ssim):
        alone = torch.cat([metric(output[i : i + 1], target[i : i + 1], 1) for i in range(3)])
        assert torch.allclose(metric(output, target, 1), alone)
        assert metric(output, target, 1).dtype == torch.float64
    assert torch.equal(output, kept)


class Bicubic(torch.nn.Module):
    """The baseline of every table, on 8 bits as the benchmarks do it."""

    def __init__(self, scale: int):
        super().__init__()
        self.scale = scale

    def forward(self, low: torch.Tensor) -> torch.Tensor:
        return enlarge((low * 255).round().to(torch.uint8), self.scale).float() / 255


def test_partial_metrics_serve_evaluate_on_images_of_different_sizes():
    images = tuple(
        (picture(3, *size) * 255).round().to(torch.uint8) for size in ((24, 30), (40, 28))
    )
    tune = PatchSet("toy", "tune", images, "embedded", scale=2, patch=12)
    metrics = {"psnr": partial(sr.psnr, border=2), "ssim": partial(sr.ssim, border=2)}
    found = train.evaluate(Bicubic(2), tune, purpose="test", metrics=metrics, batch=1)
    pairs = [(Bicubic(2)(low), high) for low, high in tune.chunks(1)]
    for name, metric in metrics.items():
        assert found[name] == pytest.approx(sum(float(metric(*pair)) for pair in pairs) / 2)


@pytest.mark.parametrize("metric", [sr.psnr, sr.ssim])
def test_what_cannot_be_compared_is_named(metric):
    with pytest.raises(ValueError, match="one shape"):
        metric(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 18), 1)
    with pytest.raises(ValueError, match="RGB"):
        metric(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16), 1)
    with pytest.raises(ValueError, match="shave 8"):
        metric(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16), 8)
    if metric is sr.ssim:
        with pytest.raises(ValueError, match="11 x 11 pixels inside a border of 3"):
            metric(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16), 3)


# What every table of the field gives for bicubic interpolation, dB.
LITERATURE = {
    "Set5": {2: 33.66, 3: 30.39, 4: 28.42},
    "Set14": {2: 30.24, 3: 27.55, 4: 26.00},
}


@pytest.mark.parametrize("name", LITERATURE)
def test_bicubic_interpolation_has_the_psnr_of_the_literature(name):
    if registry.find(name) is None:
        pytest.skip(f"{name} is not here")
    for scale, expected in LITERATURE[name].items():
        pairs = super_resolution.load_patches(name, "test", scale=scale, patch=scale)
        net, border = Bicubic(scale), scale
        scores = [float(sr.psnr(net(low), high, border)) for low, high in pairs.chunks(1)]
        found = sum(scores) / len(scores)
        # Those tables compare the levels of the one grey file, bridge.png, not its luma.
        grey = 20 * math.log10(255 / 219) / len(scores) if name == "Set14" else 0
        assert found - grey == pytest.approx(expected, abs=0.02), scale
