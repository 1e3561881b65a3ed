"""Bicubic reduction, luma, cropping, and pairs of patches."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from compactnets import data
from compactnets.data import resize
from compactnets.data import super_resolution as sr
from compactnets.data.patches import PatchSet
from data_toys import toy_entry, toy_home, write_registry

SCALES = [2, 3, 4]


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=gen(seed)).to(torch.uint8)


def test_the_weights_for_halving_are_the_cubic_at_odd_eighths():
    # Between two pixels, distances 1/4, 3/4, 5/4, 7/4 of the stretched kernel: by hand, with
    # a = -1/2, 1.5 t^3 - 2.5 t^2 + 1 and -0.5 t^3 + 2.5 t^2 - 4 t + 2, halved.
    by_hand = torch.tensor([-3, -9, 29, 111, 111, 29, -9, -3], dtype=torch.float64) / 256
    row = resize.resize_weights(32, 1, 2)[8]
    assert torch.allclose(row[13:21], by_hand, atol=1e-15)
    assert float(row.abs().sum() - by_hand.abs().sum()) == pytest.approx(0, abs=1e-14)


def test_the_border_is_mirrored_with_the_edge_pixel_repeated():
    row = resize.resize_weights(32, 1, 2)[0]  # taps -3 .. 4 fold onto 2 1 0 0 1 2 3 4
    by_hand = torch.tensor([111 + 29, 111 - 9, 29 - 3, -9, -3], dtype=torch.float64)
    # Tap k sits at k - 0.5 from the center: -3 -> 3.5, -2 -> 2.5, -1 -> 1.5, 0 -> 0.5, ...
    assert torch.allclose(row[:5] * 256, by_hand, atol=1e-12)
    assert row[5:].abs().max() == 0


@given(size=st.integers(1, 40), up=st.integers(1, 4), down=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_weights_sum_to_one_and_are_symmetric(size, up, down):
    weights = resize.resize_weights(size, up, down)
    assert weights.shape == (-(-size * up // down), size)
    assert torch.allclose(weights.sum(1), torch.ones(len(weights), dtype=torch.float64))
    if size * up % down == 0:
        assert torch.allclose(weights, weights.flip(0, 1), atol=1e-12)


@pytest.mark.parametrize("scale", SCALES)
def test_reduction_agrees_with_torch_and_pil_away_from_the_border_only(scale):
    image = pictures(3, 24 * scale, 20 * scale)
    ours = resize.reduce(image.double(), scale)
    torchs = torch.nn.functional.interpolate(
        image.double()[None], ours.shape[1:], mode="bicubic", antialias=True
    )[0]
    difference = (ours - torchs).abs()
    assert float(difference[:, 2:-2, 2:-2].max()) < 1e-6 * 255
    assert float(difference.max()) > 0.5  # they cut the kernel off at the border
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    small = picture.resize((20, 24), Image.Resampling.BICUBIC)
    pils = torch.from_numpy(np.array(small)).permute(2, 0, 1).int()
    columns_first = resize.reduce(image.transpose(1, 2), scale).transpose(1, 2).int()
    off = (columns_first - pils).abs()[:, 2:-2, 2:-2]
    assert int(off.max()) <= 1
    assert float(off.float().mean()) < 0.01  # PIL's weights are 22-bit integers


@pytest.mark.parametrize("scale", SCALES)
@given(level=st.integers(0, 255), height=st.integers(1, 30), width=st.integers(1, 30))
@settings(max_examples=15, deadline=None)
def test_a_flat_image_stays_flat_at_any_size(scale, level, height, width):
    image = torch.full((3, height, width), level, dtype=torch.uint8)
    small = resize.reduce(image, scale)
    assert small.shape == (3, -(-height // scale), -(-width // scale))
    assert (small == level).all()
    large = resize.enlarge(image, scale)
    assert large.shape == (3, height * scale, width * scale)
    assert (large == level).all()


def test_enlarging_keeps_a_slope_and_reducing_gives_it_back():
    slope = torch.arange(40, dtype=torch.float64).expand(1, 40, 40).clone()
    large = resize.enlarge(slope, 2)
    expected = (torch.arange(80, dtype=torch.float64) + 0.5) / 2 - 0.5
    assert torch.allclose(large[0, 40, 8:-8], expected[8:-8])
    assert torch.allclose(resize.reduce(large, 2)[:, 6:-6, 6:-6], slope[:, 6:-6, 6:-6])


def test_bytes_are_rounded_after_each_axis_half_up():
    image = pictures(1, 16, 16)
    weights = resize.resize_weights(16, 1, 2)
    rows = (weights @ image.double() + 0.5).floor().clamp(0, 255)
    expected = (rows @ weights.T + 0.5).floor().clamp(0, 255)
    assert torch.equal(resize.reduce(image, 2).double(), expected)
    assert resize.reduce(image.float(), 2).dtype == torch.float32


def test_luma_of_black_white_and_primaries_is_bt601():
    colors = torch.tensor([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]])
    y = resize.luma(colors.to(torch.uint8).view(5, 3, 1, 1)).flatten() * 255
    expected = torch.tensor([16, 235, 16 + 65.481, 16 + 128.553, 16 + 24.966])
    assert torch.allclose(y, expected, atol=1e-4)


def test_cropping_and_shaving_take_the_right_pixels():
    image = pictures(3, 11, 14)
    assert torch.equal(resize.crop_to_multiple(image, 3), image[:, :9, :12])
    assert torch.equal(resize.crop_to_multiple(image, 1), image)
    assert torch.equal(resize.shave(image, 2), image[:, 2:-2, 2:-2])
    assert torch.equal(resize.shave(image, 0), image)


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (lambda x: resize.reduce(x, 0), ValueError, "scale"),
        (lambda x: resize.reduce(x.int(), 2), TypeError, "uint8 or floating"),
        (lambda x: resize.luma(x[:2]), ValueError, "RGB"),
        (lambda x: resize.crop_to_multiple(x, 20), ValueError, "multiple of 20"),
        (lambda x: resize.shave(x, 5), ValueError, "shave 5"),
    ],
)
def test_what_cannot_be_resized_is_named(call, error, word):
    with pytest.raises(error, match=word):
        call(pictures(3, 10, 10))


def toy(scale=2, split="train", channels="rgb", patch=None, patches=20) -> PatchSet:
    sizes = [(40, 52), (33, 31), (61, 45)]
    images = tuple(pictures(3, h, w, seed=h) for h, w in sizes)
    return PatchSet(
        "toy", split, images, "embedded", scale, patch or 6 * scale, patches, channels
    )  # fmt: skip


@pytest.mark.parametrize("scale", SCALES)
@given(seed=st.integers(0, 1000))
@settings(max_examples=5, deadline=None)
def test_every_pair_is_an_aligned_window_of_an_image_and_its_reduction(scale, seed):
    pairs = toy(scale, patches=6)
    side = 6
    for low, high in pairs.batches(4, generator=gen(seed)):
        for small, large in zip((low * 255).round(), (high * 255).round(), strict=True):
            assert any(
                torch.equal(small, image[:, y : y + side, x : x + side].float())
                and torch.equal(
                    large,
                    whole[
                        :, scale * y : scale * (y + side), scale * x : scale * (x + side)
                    ].float(),
                )
                for image, whole in zip(pairs.low, pairs.images, strict=True)
                for y in range(image.shape[1] - side + 1)
                for x in range(image.shape[2] - side + 1)
            )


def test_epochs_have_the_stated_length_and_follow_the_generator():
    pairs = toy(patches=20)
    sizes = [len(low) for low, _ in pairs.batches(8, generator=gen())]
    assert sizes == [8, 8, 4]
    assert [len(low) for low, _ in pairs.batches(8, generator=gen(), drop_last=True)] == [8, 8]
    assert len(pairs) == 20
    first, again = (
        torch.cat([high for _, high in pairs.batches(8, generator=gen(5), augment=sr.Dihedral())])
        for _ in range(2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, torch.cat([h for _, h in pairs.batches(8, generator=gen(6))]))


def test_the_eight_symmetries_hit_both_images_alike_and_all_occur():
    high = pictures(1, 3, 8, 8).expand(400, -1, -1, -1)
    low = high[:, :, ::2, ::2]
    small, large = sr.random_dihedral(low, high, gen())
    one = high[0]
    eight = [
        t
        for turned in (one, one.transpose(1, 2))
        for t in (turned, turned.flip(1), turned.flip(2), turned.flip(1, 2))
    ]
    counts = torch.tensor([sum(torch.equal(x, t) for x in large) for t in eight])
    assert int(counts.sum()) == 400
    assert int(counts.min()) > 25  # 50 expected, standard deviation 6.6
    turned_low = {t.numpy().tobytes(): k for k, t in enumerate(eight)}
    for a, b in zip(small, large, strict=True):
        k = turned_low[b.contiguous().numpy().tobytes()]
        base = one[:, ::2, ::2]
        base = base.transpose(1, 2) if k >= 4 else base
        dims = [(), (1,), (2,), (1, 2)][k % 4]
        assert torch.equal(a, base.flip(dims) if dims else base)
    with pytest.raises(ValueError, match="square"):
        sr.random_dihedral(low[..., :2], high, gen())


def test_chunks_are_the_whole_images_in_order():
    pairs = toy(3, split="test")
    assert len(pairs) == 3
    for (low, high), image, small in zip(pairs.chunks(4), pairs.images, pairs.low, strict=True):
        assert torch.equal((high[0] * 255).round(), image.float())
        assert torch.equal((low[0] * 255).round(), small.float())
        assert high.shape[2:] == tuple(3 * extent for extent in low.shape[2:])
    alike = dataclasses.replace(pairs, images=(pairs.images[0],) * 3)
    assert [len(low) for low, _ in alike.chunks(2)] == [2, 1]


def test_luma_pairs_have_one_channel_and_the_asked_type():
    for low, high in toy(channels="y").batches(5, generator=gen(), dtype=torch.bfloat16):
        assert low.shape == (5, 1, 6, 6)
        assert high.shape == (5, 1, 12, 12)
        assert high.dtype == torch.bfloat16
        assert 16 / 255 - 0.01 <= float(high.min()) <= float(high.max()) <= 235 / 255 + 0.01


def test_tuning_images_are_disjoint_and_never_from_test():
    rest, tune = sr.tuning_images(toy(), 1)
    assert (rest.split, tune.split, len(rest.images), len(tune)) == ("train", "tune", 2, 1)
    sums = [hashlib.sha256(i.numpy().tobytes()).hexdigest() for i in (*rest.images, *tune.images)]
    assert len(set(sums)) == 3
    with pytest.raises(ValueError, match="only reports"):
        sr.tuning_images(toy(split="test"), 1)
    with pytest.raises(ValueError, match="both"):
        sr.tuning_images(toy(), 3)


def test_the_fingerprint_sees_images_and_settings():
    pairs = toy()
    changed = list(pairs.images)
    changed[1] = 255 - changed[1]
    variants = [
        dataclasses.replace(pairs, images=tuple(changed)),
        dataclasses.replace(pairs, scale=3, patch=18),
        dataclasses.replace(pairs, channels="y"),
    ]
    assert len({pairs.fingerprint, *(v.fingerprint for v in variants)}) == 4
    assert pairs.fingerprint == toy().fingerprint


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"patch": 13}, ValueError, "multiple of scale"),
        ({"patch": 64}, ValueError, "no patch of 64"),
        ({"channels": "hsv"}, ValueError, "hsv"),
        ({"images": ()}, ValueError, "no images"),
        ({"images": (torch.zeros(3, 20, 20),)}, TypeError, "uint8"),
    ],
)
def test_an_impossible_patch_set_is_refused(change, error, word):
    with pytest.raises(error, match=word):
        dataclasses.replace(toy(), **change)


def test_auto_draws_where_no_set_is_found_and_its_splits_differ(tmp_path, monkeypatch):
    toy_home(tmp_path, monkeypatch, [_sr_entry("T91"), _sr_entry("Set5")])
    train = sr.load_patches("auto", limit=3, patches=4)
    test = sr.load_patches("auto", "test", limit=3)
    assert (train.name, train.source, test.split) == ("scenes", "embedded", "test")
    pixels = {image.numpy().tobytes() for image in (*train.images, *test.images)}
    assert len(pixels) == 6
    fewer = sr.load_images("scenes", 2)
    assert all(map(torch.equal, fewer, train.images))


def test_sets_on_disk_are_read_in_order_of_name_and_checked(tmp_path, monkeypatch):
    home = toy_home(tmp_path, monkeypatch)
    root = home / "sr" / "Set5"
    root.mkdir(parents=True)
    for name, mode in (("b", "RGB"), ("a", "L")):
        Image.new(mode, (20, 14), 99 if mode == "L" else (1, 2, 3)).save(root / f"{name}.png")
    sums = {p.name: f"sha256:{hashlib.sha256(p.read_bytes()).hexdigest()}" for p in root.iterdir()}
    write_registry(tmp_path, [_sr_entry("Set5", files=sums), _sr_entry("T91")])
    images = sr.load_images("Set5")
    assert [tuple(image.shape) for image in images] == [(3, 14, 20)] * 2
    assert images[0].unique().tolist() == [99]
    assert sr.load_patches("auto", "test").source == "files"
    with pytest.raises(ValueError, match="Set5 has 2 images"):
        sr.load_images("Set5", 3)
    (root / "b.png").write_bytes((root / "b.png").read_bytes()[:-20])
    with pytest.raises(data.ChecksumError, match=r"b\.png is damaged"):
        sr.load_images("Set5")
    with pytest.raises(data.DataMissing, match="T91"):
        sr.load_images("T91")
    with pytest.raises(ValueError, match="did you mean Set5"):
        sr.load_images("Set6")


def _sr_entry(name: str, **fields) -> dict:
    return toy_entry(
        name, kind="restoration", layout="image_folders", path=f"sr/{name}", **fields
    )  # fmt: skip
