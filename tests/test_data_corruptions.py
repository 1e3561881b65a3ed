"""Corruptions: dtype and range, severity, generator, untouched arguments, each one's own law."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compactnets import data, seeds
from compactnets.data import corruptions
from compactnets.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt, corrupted

NOISES = ("Gaussian noise", "shot noise", "impulse noise")


def pictures(seed=0, n=4, height=32, width=32, detail=5):
    """Smooth random images, as photographs are."""
    coarse = torch.rand(n, 3, detail, detail, generator=seeds.generator(seed, "pictures"))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (smooth.clamp(0, 1) * 255).round().to(torch.uint8)


def distance(a, b):
    return float((a.float() - b.float()).square().mean().sqrt())


@given(
    name=st.sampled_from(CORRUPTIONS),
    severity=st.integers(0, 5),
    n=st.integers(0, 3),
    height=st.integers(8, 40),
    width=st.integers(8, 40),
)
def test_shape_and_dtype_stay_and_the_argument_is_untouched(name, severity, n, height, width):
    images = pictures(1, n, height, width)
    before = images.clone()
    found = corrupt(images, name, severity, seeds.generator(0, "noise"))
    assert found.dtype == torch.uint8 and found.shape == images.shape
    assert torch.equal(images, before)
    assert found.data_ptr() != images.data_ptr() or n == 0


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severity_0_is_a_copy(name):
    images = pictures()
    assert torch.equal(corrupt(images, name, 0, seeds.generator(0)), images)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_higher_severity_moves_the_images_further(name):
    images = pictures(2, 32, detail=32)
    moved = [distance(corrupt(images, name, s, seeds.generator(0)), images) for s in SEVERITIES]
    assert moved[0] > 0
    assert all(a < b for a, b in itertools.pairwise(moved))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_generator_alone_decides(name):
    images = pictures()
    state = torch.get_rng_state()
    first, again, other = (corrupt(images, name, 3, seeds.generator(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert torch.equal(first, other) != (name in NOISES)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_memory_layout_does_not_matter(name):
    images = pictures()
    rows = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(
        corrupt(images, name, 4, seeds.generator(0)), corrupt(rows, name, 4, seeds.generator(0))
    )


@pytest.mark.parametrize("name", ["blur", "contrast", "pixelation"])
@given(gray=st.integers(0, 255), severity=st.sampled_from(SEVERITIES))
def test_a_flat_image_has_nothing_to_lose(name, gray, severity):
    flat = torch.full((1, 3, 16, 16), gray, dtype=torch.uint8)
    assert torch.equal(corrupt(flat, name, severity, seeds.generator(0)), flat)


@given(gray=st.integers(0, 255), severity=st.sampled_from(SEVERITIES))
def test_jpeg_keeps_a_flat_image_flat_and_moves_it_by_half_a_step_at_most(gray, severity):
    flat = torch.full((1, 3, 16, 16), gray, dtype=torch.uint8)
    found = corrupt(flat, "JPEG", severity, seeds.generator(0)).unique()
    assert len(found) == 1 and abs(int(found) - gray) <= 2  # the coarsest step is 20 / 8 levels


def test_gaussian_noise_has_the_deviation_that_was_asked_for():
    gray = torch.full((64, 3, 32, 32), 128, dtype=torch.uint8)
    found = corruptions.gaussian_noise(gray, 0.1, seeds.generator(0)).float() / 255
    assert abs(float(found.std()) - 0.1) < 1e-3 and abs(float(found.mean()) - 128 / 255) < 1e-3


def test_shot_noise_has_the_variance_of_its_counts():
    gray = torch.full((64, 3, 32, 32), 102, dtype=torch.uint8)  # 0.4
    found = corruptions.shot_noise(gray, 100, seeds.generator(0)).float() / 255
    assert abs(float(found.var()) - 0.4 / 100) < 2e-4 and abs(float(found.mean()) - 0.4) < 1e-3


def test_impulse_noise_hits_its_share_of_values_half_of_them_white():
    gray = torch.full((64, 3, 32, 32), 128, dtype=torch.uint8)
    found = corruptions.impulse_noise(gray, 0.1, seeds.generator(0))
    for value in (0, 255):
        assert abs(float((found == value).float().mean()) - 0.05) < 2e-3
    assert set(found.unique().tolist()) == {0, 128, 255}


@given(seed=st.integers(0, 1000), more=st.floats(0.0, 0.5))
def test_brightness_raises_the_largest_channel_and_keeps_the_ratios(seed, more):
    images = pictures(seed, 2)
    found = corruptions.brightness(images, more).float()
    value, brighter = images.float().amax(1), found.amax(1)
    assert (brighter - (value + 255 * more).clamp(max=255)).abs().max() <= 0.51
    ratio = images.float() / value[:, None].clamp(min=1)
    assert (found - ratio * brighter[:, None]).abs()[:, :, value.amin(0) > 0].max() <= 1.01


def test_brightness_turns_black_into_gray():
    black = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    assert corruptions.brightness(black, 0.2).unique().tolist() == [51]


@given(seed=st.integers(0, 1000), factor=st.floats(0.0, 1.0))
def test_contrast_keeps_the_mean_and_scales_the_deviation(seed, factor):
    images = pictures(seed, 2)
    found = corruptions.contrast(images, factor)
    for i in range(2):
        for c in range(3):
            a, b = images[i, c].float(), found[i, c].float()
            assert abs(float(a.mean() - b.mean())) < 0.51
            assert abs(float(b.std() - factor * a.std())) < 1


@given(sigma=st.floats(0.1, 3.0), size=st.integers(1, 40))
def test_blur_weights_sum_to_one_and_read_the_same_from_both_ends(sigma, size):
    matrix = corruptions._blur_matrix(size, sigma)
    assert torch.allclose(matrix.sum(1), torch.ones(size), atol=1e-5)
    assert torch.allclose(matrix, matrix.flip(0, 1), atol=1e-6)


@given(size=st.integers(2, 40), data_=st.data())
def test_pixelation_averages_equal_areas_and_shows_that_many(size, data_):
    count = data_.draw(st.integers(1, size))
    matrix = corruptions._pixel_matrix(size, count)
    assert torch.allclose(matrix.sum(1), torch.ones(size), atol=1e-5)
    assert len({tuple(row.tolist()) for row in matrix}) == count
    if size % count == 0:
        block = size // count
        expected = torch.block_diag(*[torch.full((block, block), 1 / block)] * count)
        assert torch.allclose(matrix, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((torch.zeros(1, 3, 8, 8), "JPEG", 1), TypeError, "uint8"),
        ((torch.zeros(1, 1, 8, 8, dtype=torch.uint8), "JPEG", 1), ValueError, r"\(N, 3, H, W\)"),
        ((pictures(), "fog", 1), ValueError, "fog.*JPEG"),
        ((pictures(), "JPEG", 6), ValueError, "0 to 5, got 6"),
    ],
)
def test_bad_input_is_named(arguments, error, words):
    with pytest.raises(error, match=words):
        corrupt(*arguments, seeds.generator(0))


def test_a_corrupted_set_keeps_labels_and_split_and_says_what_it_is():
    clean = data.load("shapes32", "test", limit=16)
    found = corrupted(clean, "shot noise", 5)
    assert torch.equal(found.labels, clean.labels) and found.split == "test"
    assert found.name == f"{clean.name} under shot noise, severity 5"
    assert found.fingerprint != clean.fingerprint
    assert found.fingerprint == corrupted(clean, "shot noise", 5).fingerprint
    assert found.fingerprint != corrupted(clean, "shot noise", 5, seed=1).fingerprint
