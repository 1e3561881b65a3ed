"""shapes32 and the drawn scenes: deterministic, prefix-stable, balanced, not told by color."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compactnets import data
from compactnets.data import drawn, shapes32


@given(n=st.integers(0, 230), seed=st.integers(0, 5))
@settings(max_examples=8, deadline=None)
def test_fewer_images_are_the_first_of_more(n, seed):
    images, labels = shapes32.draw(230, "train", seed)
    fewer, marks = shapes32.draw(n, "train", seed)
    assert torch.equal(fewer, images[:n])
    assert torch.equal(marks, labels[:n])
    counts = marks.bincount(minlength=10)
    assert int(counts.max() - counts.min()) <= 1


def test_the_number_of_threads_does_not_change_a_bit():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = shapes32.draw(100)[0]
        torch.set_num_threads(2)
        assert torch.equal(shapes32.draw(100)[0], one)
    finally:
        torch.set_num_threads(threads)


def test_splits_and_seeds_share_no_image():
    drawn_sets = [
        shapes32.draw(300, *which)[0] for which in (("train", 0), ("test", 0), ("train", 1))
    ]
    seen = {image.numpy().tobytes() for images in drawn_sets for image in images}
    assert len(seen) == 900


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    shapes32.draw(100)
    drawn.scenes(1, 32)
    assert torch.equal(torch.get_rng_state(), before)


def test_color_and_brightness_do_not_tell_the_class():
    images, labels = shapes32.draw(3000)
    pixels = images.flatten(2).float()
    features = torch.cat((pixels.mean(2), pixels.std(2), torch.ones(3000, 1)), dim=1)
    targets = torch.nn.functional.one_hot(labels, 10).float()
    weights = torch.linalg.lstsq(features[:2000], targets[:2000]).solution
    hits = ((features[2000:] @ weights).argmax(1) == labels[2000:]).float().mean()
    # Chance is 0.10. How bright and how even an image is follows a little from how much of it
    # the shape covers, which is part of the outline.
    assert float(hits) < 0.25


def test_the_images_use_their_range_and_differ_in_their_ground():
    images, _ = shapes32.draw(500)
    levels = images.float()
    assert 90 < float(levels.mean()) < 165
    assert float(levels.std()) > 40
    assert float(levels.mean((2, 3)).std(0).min()) > 25


def test_every_outline_lies_inside_its_template():
    fields = shapes32.templates()[:, 0]
    assert fields.shape == (len(shapes32.CLASSES), 96, 96)
    frame = torch.cat((fields[:, 0], fields[:, -1], fields[:, :, 0], fields[:, :, -1]), dim=1)
    assert float(frame.min()) > 0.2
    covered = (fields < 0).float().mean((1, 2)) * 3.2**2
    assert float(covered.min()) > 0.5
    assert float(covered.max()) < 3.5


def test_template_distances_are_distances():
    square = shapes32.templates()[shapes32.CLASSES.index("square"), 0]
    place = torch.linspace(-1.6, 1.6, 96)
    y, x = torch.meshgrid(place, place, indexing="ij")
    far = (x.abs() - 0.75).clamp(min=0).hypot((y.abs() - 0.75).clamp(min=0))
    near = torch.maximum(x.abs(), y.abs()) - 0.75
    assert torch.allclose(square, torch.where(near > 0, far, near), atol=1e-6)


def test_loading_gives_an_embedded_set_that_normalizes_to_about_unit_moments():
    train, test = (data.load("shapes32", split, limit=600) for split in ("train", "test"))
    assert (train.source, train.split, test.split) == ("embedded", "train", "test")
    assert (train.mean, train.std) == (test.mean, test.std)
    assert len(train.classes) == 10
    values = train.normalized(train.images)
    assert float(values.mean((0, 2, 3)).abs().max()) < 0.05
    assert float((values.std((0, 2, 3)) - 1).abs().max()) < 0.05
    assert train.fingerprint == data.load("shapes32", limit=600).fingerprint
    assert train.fingerprint != data.load("shapes32", limit=600, seed=1).fingerprint


@pytest.mark.parametrize(("split", "size"), [("train", 50_000), ("test", 10_000)])
def test_asking_for_more_than_a_split_has_names_its_size(split, size):
    with pytest.raises(ValueError, match=f"shapes32/{split} has {size} images"):
        data.load("shapes32", split, limit=size + 1)


def test_an_unknown_split_or_another_size_is_refused():
    with pytest.raises(ValueError, match="train or test"):
        data.load("shapes32", "tune")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="32 pixels"):
        data.load("shapes32", size=64)


def test_scenes_are_deterministic_prefix_stable_and_differ():
    scenes = drawn.scenes(3, 64, seed=4)
    assert scenes.shape == (3, 3, 64, 64)
    assert scenes.dtype == torch.uint8
    assert torch.equal(drawn.scenes(2, 64, seed=4), scenes[:2])
    assert not torch.equal(drawn.scenes(1, 64, seed=5)[0], scenes[0])
    assert not torch.equal(scenes[0], scenes[1])


def test_scenes_hold_what_interpolation_loses():
    scenes = drawn.scenes(4, 96)
    back = data.resize.enlarge(data.resize.reduce(scenes, 2), 2)
    error = (back.float() - scenes.float()).square().mean((1, 2, 3)).sqrt()
    assert float(error.min()) > 2  # grey levels: clearly above the grain of 1.5
    assert float(scenes.float().std((1, 2, 3)).min()) > 15


def test_scenes_refuses_what_it_cannot_draw():
    for n, size in ((-1, 64), (1, 8)):
        with pytest.raises(ValueError, match="scenes needs"):
            drawn.scenes(n, size)
