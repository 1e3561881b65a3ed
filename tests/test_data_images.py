"""ImageSet: subsets, splits, batches and fingerprints."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compactnets import data
from compactnets.data import ImageSet, augment


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def toy(counts=(20, 20, 20), seed: int = 0, split="train", size: int = 6) -> ImageSet:
    """Images whose first pixel tells which one they are."""
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=gen(seed))]
    images = torch.randint(0, 256, (len(labels), 3, size, size), generator=gen(seed + 1))
    images[:, 0, 0, 0] = torch.arange(len(labels))
    classes = tuple(f"class {c}" for c in range(len(counts)))
    return ImageSet(
        "toy", split, images.to(torch.uint8), labels, classes, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4),
        "embedded",
    )  # fmt: skip


def ids(images: ImageSet) -> list[int]:
    return images.images[:, 0, 0, 0].tolist()


@given(n=st.integers(0, 60), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_take_is_stratified_deterministic_and_nested(n, seed):
    whole = toy()
    part = whole.take(n, seed)
    assert len(part) == n
    counts = part.labels.bincount(minlength=3)
    assert int(counts.max() - counts.min()) <= 1
    assert ids(part) == sorted(set(ids(part)))
    assert ids(part) == ids(whole.take(n, seed))
    assert set(ids(whole.take(n // 2, seed))) <= set(ids(part))
    for place, index in enumerate(ids(part)):
        assert torch.equal(part.images[place], whole.images[index])
        assert part.labels[place] == whole.labels[index]


@given(
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=5),
    share=st.floats(0, 1),
    seed=st.integers(0, 9),
)
@settings(max_examples=40, deadline=None)
def test_take_keeps_proportions_of_uneven_classes(counts, share, seed):
    whole = toy(counts)
    n = int(share * len(whole))
    got = whole.take(n, seed).labels.bincount(minlength=len(counts))
    expected = torch.tensor(counts) * n / len(whole)
    assert float((got - expected).abs().max()) <= 0.5 + len(counts) / 2


def test_another_seed_takes_other_images():
    assert ids(toy().take(12, 0)) != ids(toy().take(12, 1))


@given(n=st.integers(1, 59), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_tuning_split_is_disjoint_stratified_and_complete(n, seed):
    rest, tune = data.tuning_split(toy(), n, seed)
    assert (rest.split, tune.split) == ("train", "tune")
    assert len(tune) == n
    assert sorted(ids(rest) + ids(tune)) == list(range(60))
    for part in (rest, tune):
        counts = part.labels.bincount(minlength=3)
        assert int(counts.max() - counts.min()) <= 1
    assert ids(data.tuning_split(toy(), n, seed)[1]) == ids(tune)


def test_the_test_split_is_never_tuned_on_and_neither_side_is_empty():
    with pytest.raises(ValueError, match="only reports"):
        data.tuning_split(toy(split="test"), 5)
    for n in (0, 60):
        with pytest.raises(ValueError, match="both sides"):
            data.tuning_split(toy(), n)


def test_taking_more_than_there_is_names_the_size():
    with pytest.raises(ValueError, match="toy/train has 60 images"):
        toy().take(61)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normalized_is_the_textbook_formula_in_every_layout(dtype):
    whole = toy()
    mean, std = (torch.tensor(v).double().view(1, 3, 1, 1) for v in (whole.mean, whole.std))
    expected = (whole.images.double() / 255 - mean) / std
    for images in (whole.images, whole.images.contiguous(), whole.images[:, :, 1:, :-2]):
        part = expected if images.shape == expected.shape else expected[:, :, 1:, :-2]
        out = whole.normalized(images, dtype)
        assert out.dtype == dtype
        assert out.is_contiguous(memory_format=torch.channels_last)
        tolerance = 1e-5 if dtype == torch.float32 else 2**-8 * float(expected.abs().max())
        assert float((out.double() - part).abs().max()) <= tolerance


@given(batch=st.integers(1, 70), drop=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_an_epoch_shows_every_image_once_with_its_label(batch, drop, seed):
    whole = dataclasses.replace(toy(), mean=(0.0,) * 3, std=(1.0,) * 3)
    seen = []
    for inputs, labels in whole.batches(batch, generator=gen(seed), drop_last=drop):
        assert len(inputs) == len(labels)
        assert len(inputs) == batch or (not drop and len(inputs) == 60 % batch)
        index = (inputs[:, 0, 0, 0] * 255).round().long()
        assert torch.equal(whole.labels[index], labels)
        seen += index.tolist()
    assert len(seen) == len(set(seen)) == (60 - 60 % batch if drop else 60)


def test_batches_follow_the_generator_and_its_state_goes_on():
    def orders(g):
        return [torch.cat([y for _, y in toy().batches(7, generator=g)]) for _ in range(2)]

    first, again = orders(gen(1)), orders(gen(1))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], first[1])


def test_batches_augment_in_uint8_before_they_normalize():
    kinds = []

    def spy(images, generator):
        kinds.append(images.dtype)
        return augment.random_flip(images, generator, p=1.0)

    whole = toy()
    for inputs, _ in whole.batches(60, generator=gen(), augment=spy, dtype=torch.bfloat16):
        order = torch.randperm(60, generator=gen())
        expected = whole.normalized(whole.images[order].flip(3), torch.bfloat16)
        assert torch.equal(inputs, expected)
    assert kinds == [torch.uint8]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_batches_and_chunks_come_in_the_asked_layout(layout):
    for inputs, _ in (
        *toy().batches(16, generator=gen(), memory_format=layout),
        *toy().chunks(16, memory_format=layout),
    ):
        assert inputs.is_contiguous(memory_format=layout)


def test_chunks_are_the_stored_order_whatever_the_batch():
    whole = toy()
    for batch in (1, 7, 60, 100):
        inputs, labels = (torch.cat(part) for part in zip(*whole.chunks(batch), strict=True))
        assert torch.equal(inputs, whole.normalized(whole.images))
        assert torch.equal(labels, whole.labels)


def test_the_fingerprint_sees_pixels_labels_and_nothing_else():
    whole = toy()
    same = dataclasses.replace(
        whole, images=whole.images.contiguous(), name="other", split="test", mean=(0.1,) * 3
    )
    assert whole.fingerprint == same.fingerprint == whole.to("cpu").fingerprint
    pixels = whole.images.clone()
    pixels[3, 1, 2, 2] ^= 1
    labels = whole.labels.clone()
    labels[5] = (labels[5] + 1) % 3
    others = (
        dataclasses.replace(whole, images=pixels),
        dataclasses.replace(whole, labels=labels),
        whole.take(59),
    )
    assert len({whole.fingerprint, *(other.fingerprint for other in others)}) == 4


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        ({"images": torch.zeros(60, 3, 6, 6)}, TypeError, "uint8"),
        ({"labels": torch.zeros(59, dtype=torch.int64)}, TypeError, "labels"),
        ({"labels": torch.full((60,), 3)}, ValueError, "3 classes"),
        ({"std": (0.1, 0.0, 0.1)}, ValueError, "std"),
        ({"mean": (0.1,)}, ValueError, "channels"),
    ],
)
def test_an_inconsistent_set_is_refused(change, error, word):
    with pytest.raises(error, match=word):
        dataclasses.replace(toy(), **change)


def test_only_reads_of_the_test_split_are_logged_each_with_its_purpose():
    data.clear_test_reads()
    data.log_test_read(toy(), "warm-up")
    data.log_test_read(toy(split="test"), "last epoch, seed 0")
    data.log_test_read(toy(split="test"), "last epoch, seed 1")
    reads = data.test_reads()
    assert [r.purpose for r in reads] == ["last epoch, seed 0", "last epoch, seed 1"]
    assert (reads[0].name, reads[0].items) == ("toy", 60)
    assert reads[0].fingerprint == toy().fingerprint
    with pytest.raises(ValueError, match="say what"):
        data.log_test_read(toy(split="test"), " ")
    data.clear_test_reads()
    assert data.test_reads() == []
