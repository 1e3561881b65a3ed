"""Augmentation: what may change, what may not, and that the generator alone decides."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compactnets.data import augment
from compactnets.data.augment import Compose, Cutout, RandomCrop, RandomFlip

SIZES = st.tuples(st.integers(0, 6), st.integers(1, 3), st.integers(5, 12), st.integers(5, 12))
SEEDS = st.integers(0, 2**16)
STEPS = [
    RandomCrop(2),
    RandomCrop(3, "reflect"),
    RandomFlip(),
    Cutout(3),
    Compose(RandomCrop(2), RandomFlip(), Cutout(2)),
]


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(shape, seed: int = 0, dtype=torch.uint8) -> torch.Tensor:
    return torch.randint(1, 256, shape, generator=gen(seed)).to(dtype)  # no zeros: fill is visible


@pytest.mark.parametrize("step", STEPS, ids=repr)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@given(shape=SIZES, seed=SEEDS)
@settings(max_examples=15, deadline=None)
def test_shape_type_and_argument_stay_and_equal_states_give_equal_bits(step, dtype, shape, seed):
    images = pictures(shape, seed, dtype)
    before = images.clone()
    out = step(images, gen(seed))
    assert out.shape == images.shape
    assert out.dtype == dtype
    assert torch.equal(images, before)
    assert torch.equal(out, step(images.contiguous(memory_format=torch.channels_last), gen(seed)))
    if out.numel():
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert out.data_ptr() != images.data_ptr()


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@given(shape=SIZES, padding=st.integers(0, 4), seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_every_crop_is_a_window_of_its_padded_image(mode, shape, padding, seed):
    images = pictures(shape, seed, torch.float32)
    out = augment.random_crop(images, padding, gen(seed), mode)
    p, (height, width) = padding, images.shape[2:]
    pad_mode = "constant" if mode == "zero" else "reflect"
    for image, crop in zip(images, out, strict=True):
        padded = torch.nn.functional.pad(image, (p, p, p, p), mode=pad_mode)
        windows = [
            padded[:, y : y + height, x : x + width]
            for y in range(2 * p + 1)
            for x in range(2 * p + 1)
        ]
        assert any(torch.equal(crop, window) for window in windows)


def test_all_shifts_of_a_crop_occur_about_equally_often():
    images = torch.zeros(9000, 1, 5, 5, dtype=torch.uint8)
    images[:, :, 2, 2] = 1
    landed = augment.random_crop(images, 1, gen()).float().mean((0, 1))[1:4, 1:4]
    assert torch.allclose(landed, torch.full((3, 3), 1 / 9), atol=0.015)  # 4.5 standard errors


@given(shape=SIZES, seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_a_flip_mirrors_or_keeps_and_undoes_itself(shape, seed):
    images = pictures(shape, seed)
    out = augment.random_flip(images, gen(seed))
    for image, flipped in zip(images, out, strict=True):
        assert torch.equal(flipped, image) or torch.equal(flipped, image.flip(2))
    assert torch.equal(augment.random_flip(out, gen(seed)), images)
    assert torch.equal(augment.random_flip(images, gen(), p=1.0), images.flip(3))
    assert torch.equal(augment.random_flip(images, gen(), p=0.0), images)


def test_half_of_the_images_are_flipped():
    ramp = torch.arange(4, dtype=torch.uint8).expand(4000, 1, 4, 4)
    share = (augment.random_flip(ramp, gen())[:, 0, 0, 0] == 3).float().mean()
    assert abs(float(share) - 0.5) < 0.035  # 4.4 standard errors


@given(shape=SIZES, size=st.integers(0, 9), seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_cutout_blanks_one_square_that_the_border_may_cut_off(shape, size, seed):
    images = pictures(shape, seed)
    out = augment.cutout(images, size, gen(seed))
    gone = out != images
    assert (out[gone] == 0).all()
    height, width = shape[2:]
    for hole in gone:
        assert (hole == hole[:1]).all()
        rows, columns = hole[0].any(1), hole[0].any(0)
        assert torch.equal(hole[0], rows[:, None] & columns[None])
        least = (size + 1) // 2 if size else 0  # an even square's center is not in its middle
        assert min(least, height) <= int(rows.sum()) <= min(size, height)
        assert min(least, width) <= int(columns.sum()) <= min(size, width)


def test_cutout_in_the_middle_has_its_full_area():
    out = augment.cutout(torch.ones(500, 1, 40, 40), 8, gen())
    areas = (out == 0).sum((1, 2, 3))
    assert int(areas.max()) == 64
    inside = (out[:, :, 0] != 0).all(2) & (out[:, :, -1] != 0).all(2)
    inside &= (out[..., 0] != 0).all(2) & (out[..., -1] != 0).all(2)
    assert inside.sum() > 100
    assert (areas[inside[:, 0]] == 64).all()


def test_steps_follow_one_another_with_one_generator():
    images, g = pictures((5, 3, 8, 8)), gen(3)
    by_hand = augment.random_flip(augment.random_crop(images, 2, g), g)
    assert torch.equal(Compose(RandomCrop(2), RandomFlip())(images, gen(3)), by_hand)
    assert Compose()(images, gen()) is images


def test_settings_show_in_a_stable_repr_and_equal_settings_are_equal():
    step = Compose(RandomCrop(4), RandomFlip(), Cutout(8))
    assert repr(step) == (
        "Compose(RandomCrop(padding=4, mode='zero'), RandomFlip(p=0.5), Cutout(size=8))"
    )
    assert step == Compose(RandomCrop(4), RandomFlip(), Cutout(8))
    assert hash(step) == hash(Compose(RandomCrop(4), RandomFlip(), Cutout(8)))


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda x: augment.random_crop(x, -1, gen()), "padding"),
        (lambda x: augment.random_crop(x, 8, gen(), "reflect"), "reflect"),
        (lambda x: augment.random_crop(x, 1, gen(), "wrap"), "wrap"),
        (lambda x: augment.random_flip(x, gen(), p=1.5), "p must"),
        (lambda x: augment.cutout(x, -1, gen()), "size"),
    ],
)
def test_bad_settings_are_named(call, word):
    with pytest.raises(ValueError, match=word):
        call(pictures((2, 3, 8, 8)))
