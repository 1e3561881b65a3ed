"""Sets that lie as folders of image files: ImageFolder's layout and Tiny ImageNet's."""

import pytest
import torch
from PIL import Image

from compactnets import data
from compactnets.data import folders, loading
from data_toys import toy_entry, toy_home


@pytest.fixture
def home(tmp_path, monkeypatch):
    loading._read_listing.cache_clear()
    kinds = {"imagenette160": "class_folders", "tiny_imagenet": "tiny_imagenet"}
    return toy_home(
        tmp_path, monkeypatch, [toy_entry(name, layout=layout) for name, layout in kinds.items()]
    )


def paint(path, color, size=(160, 160), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)


def nette(home):
    for split in ("train", "val"):
        for label, wnid in enumerate(("n01440764", "n02102040")):
            for i in range(4):
                paint(home / "imagenette160" / split / wnid / f"{i}.webp", (100 * label, 50, 9))
    (home / "imagenette160" / "train" / "n01440764" / "notes.txt").write_text("not an image")


def tiny(home):
    root = home / "tiny_imagenet"
    ids = ("n02", "n01")  # not in order, as in the original
    for label, wnid in enumerate(sorted(ids)):
        for i in range(3):
            paint(root / "train" / wnid / "images" / f"{wnid}_{i}.png", (80 * label,) * 3, (64, 64))
    paint(root / "val" / "images" / "val_0.png", 200, (64, 64), "L")
    paint(root / "val" / "images" / "val_1.png", (10, 20, 30), (64, 64))
    lines = ["val_0.png\tn02\t0\t0\t62\t62", "val_1.png\tn01\t1\t2\t3\t4"]
    (root / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (root / "wnids.txt").write_text("\n".join(ids) + "\n")
    (root / "words.txt").write_text("n01\tgoldfish, carp\nn02\tkoala, bear\nn99\tother\n")
    return root


def test_class_folders_give_their_images_with_the_right_labels(home):
    nette(home)
    train, test = (data.load("imagenette160", split) for split in ("train", "test"))
    assert train.classes == ("tench", "English springer")
    assert train.images.shape == test.images.shape == (8, 3, 160, 160)
    reds = train.images[:, 0].float().mean((1, 2))
    assert torch.equal((reds > 50).long(), train.labels)
    assert (train.source, test.split) == ("files", "test")
    assert data.load("imagenette160", size=32).images.shape == (8, 3, 32, 32)


def test_a_limit_decodes_what_take_would_have_picked(home):
    nette(home)
    some, whole = data.load("imagenette160", limit=4, seed=3), data.load("imagenette160")
    assert some.fingerprint == whole.take(4, 3).fingerprint
    with pytest.raises(ValueError, match="imagenette160/train has 8 images"):
        data.load("imagenette160", limit=9)


def test_tiny_imagenet_reads_its_val_annotations_and_grey_images(home):
    tiny(home)
    train, test = (data.load("tiny_imagenet", split) for split in ("train", "test"))
    assert train.classes == ("goldfish", "koala")
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(train.images[:, 0, 0, 0], (train.labels * 80).to(torch.uint8))
    assert test.labels.tolist() == [1, 0]
    assert test.images[0].unique().tolist() == [200]
    assert test.images[1, :, 5, 5].tolist() == [10, 20, 30]


def test_damaged_and_missing_files_are_named(home):
    root = tiny(home)
    path = root / "train" / "n01" / "images" / "n01_1.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"n01_1\.png cannot be decoded"):
        data.load("tiny_imagenet")
    (root / "val" / "images" / "val_1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"val_1\.png"):
        data.load("tiny_imagenet", "test")
    (root / "val" / "val_annotations.txt").write_text("val_0.png\tn77\t0\t0\t1\t1\n")
    with pytest.raises(ValueError, match=r"val_annotations.txt: unknown class.*n77"):
        data.load("tiny_imagenet", "test")
    (root / "wnids.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"wnids\.txt is missing"):
        data.load("tiny_imagenet")


def test_empty_and_missing_class_folders_are_named(home):
    nette(home)
    root = home / "imagenette160"
    for path in (root / "val" / "n02102040").iterdir():
        path.unlink()
    (root / "val" / "n02102040").rmdir()
    with pytest.raises(FileNotFoundError, match="val/n02102040 is missing"):
        data.load("imagenette160", "test")
    for path in root.glob("train/*/*.webp"):
        path.unlink()
    with pytest.raises(ValueError, match="holds no images"):
        data.load("imagenette160")


@pytest.mark.parametrize(("wide", "high"), [(30, 20), (20, 30), (20, 20), (7, 50)])
def test_images_of_any_shape_become_squares_from_their_middle(tmp_path, wide, high):
    path = tmp_path / "one.png"
    image = Image.new("RGB", (wide, high))
    image.putpixel((wide // 2, high // 2), (255, 255, 255))
    image.save(path)
    assert folders.read_image(path).shape == (3, high, wide)
    square = folders.read_image(path, min(wide, high))
    assert square.shape == (3, min(wide, high), min(wide, high))
    assert int(square.max()) == 255
    assert folders.read_image(path, 13).shape == (3, 13, 13)
