"""The registry, the search path, checksums, and loading from disk."""

import pickle
import textwrap

import pytest
import torch
import yaml
from PIL import Image

from compactnets import data
from compactnets.data import registry, verification
from data_toys import md5, toy_entry, toy_home, write_cifar10, write_registry


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """(data folder with a small CIFAR-10, its registry entry)."""
    home = toy_home(tmp_path, monkeypatch)
    one = write_cifar10(home)
    write_registry(tmp_path, [one, toy_entry("cifar100", path="cifar-100-python")])
    return home, one


def test_the_books_registry_is_complete_and_well_formed():
    entries = {one.name: one for one in data.datasets()}
    named = {
        *("cifar10", "cifar100", "tiny_imagenet", "imagenette160", "T91", "Set5", "Set14"),
        *("BSD100", "Urban100", "facades", "fhdmi", "bccd", "modelnet10_voxels", "sst2"),
        *("planetoid", "weights"),
    }
    assert set(entries) == named
    for one in entries.values():
        assert one.license
        assert one.citation
        assert one.files or one.folders, f"{one.name} could not be checked"
        assert one.archive is None or one.archive.sum


def test_the_sums_of_cifar_are_those_that_torchvision_checks():
    from torchvision.datasets import CIFAR10, CIFAR100

    for name, known in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
        one = registry.entry(name)
        listed = {*map(tuple, known.train_list), *map(tuple, known.test_list)}
        listed.add((known.meta["filename"], known.meta["md5"]))
        assert {(k, v.removeprefix("md5:")) for k, v in one.files.items()} == listed
        assert one.archive is not None
        assert (one.archive.url, one.archive.sum) == (known.url, f"md5:{known.tgz_md5}")
        assert one.path == known.base_folder


def test_the_example_of_the_package_runs(tmp_path, monkeypatch):
    toy_home(tmp_path, monkeypatch, [toy_entry("cifar10")])
    lines = (data.__doc__ or "").split("\n\n")[1].replace("5000", "50").replace("1000", "10")
    scope: dict = {}
    exec(textwrap.dedent(lines), scope)
    assert scope["inputs"].shape == (40, 3, 32, 32)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"kind": "sounds"}, "kind"),
        ({"sizee": 3}, "sizee"),
        ({"path": "../elsewhere"}, "relative path"),
        ({"path": "/etc"}, "relative path"),
        ({"files": {"a": "md5:12"}}, "files"),
        ({"archive": {"url": "ftp://x", "sum": "md5:" + "0" * 32, "bytes": 1}}, "url"),
        ({"bytes": 0}, "bytes"),
    ],
)
def test_a_bad_field_is_named_with_its_entry_and_file(tmp_path, monkeypatch, change, word):
    toy_home(tmp_path, monkeypatch, [toy_entry("good"), toy_entry("bad") | change])
    with pytest.raises(ValueError, match=rf"(?s)datasets.yml: data set 'bad'.*{word}"):
        data.datasets()


def test_a_registry_that_is_no_list_or_repeats_a_name_is_refused(tmp_path, monkeypatch):
    toy_home(tmp_path, monkeypatch, [toy_entry("twin"), toy_entry("twin")])
    with pytest.raises(ValueError, match="twin more than once"):
        data.datasets()
    path = tmp_path / "one.yml"
    for text, word in (("{a: 1}", "list"), ("[a", "YAML")):
        path.write_text(text)
        with pytest.raises(ValueError, match=word):
            registry.read_registry(path)


def test_the_first_folder_of_the_search_path_wins_and_the_cache_needs_no_variable(
    tmp_path, monkeypatch
):
    home = toy_home(tmp_path, monkeypatch, [toy_entry("toy")])
    assert data.find("toy") is None
    cached = tmp_path / "cache" / "data" / "toy"
    cached.mkdir(parents=True)
    assert data.find("toy") == cached
    (home / "toy").mkdir()
    assert data.find("toy") == home / "toy"
    monkeypatch.delenv("COMPACTNETS_DATA")
    assert data.find("toy") == cached


def test_an_unknown_name_gets_near_matches(cifar):
    with pytest.raises(ValueError, match=r"'cifar1O'.*did you mean cifar10"):
        data.load("cifar1O")
    with pytest.raises(ValueError, match="known: auto, shapes32, cifar10"):
        data.load("zzz")
    with pytest.raises(ValueError, match="did you mean cifar100"):
        data.find("cifar-100")


def test_a_missing_set_says_where_was_looked_and_how_to_get_it(cifar):
    home, _ = cifar
    with pytest.raises(data.DataMissing, match="place it by hand") as caught:
        data.load("cifar100")
    assert str(home / "cifar-100-python") in str(caught.value)
    assert isinstance(caught.value, FileNotFoundError)


def test_auto_is_cifar10_where_it_lies_and_shapes32_elsewhere(cifar, tmp_path, monkeypatch):
    assert data.load("auto", limit=20).name == "cifar10"
    monkeypatch.setenv("COMPACTNETS_DATA", str(tmp_path / "nothing here"))
    assert data.load("auto", limit=20).name == "shapes32"


def test_cifar_is_read_as_torchvision_reads_it(cifar):
    from torchvision.datasets import CIFAR10

    home, one = cifar

    class Toy(CIFAR10):
        train_list = [[k, v[4:]] for k, v in one["files"].items() if k.startswith("data")]  # noqa: RUF012
        test_list = [[k, v[4:]] for k, v in one["files"].items() if k.startswith("test")]  # noqa: RUF012
        meta = {  # noqa: RUF012
            "filename": "batches.meta",
            "key": "label_names",
            "md5": one["files"]["batches.meta"][4:],
        }

    Toy.train_list.sort()
    for split in ("train", "test"):
        theirs = Toy(home, train=split == "train", download=False)
        ours = data.load("cifar10", split)
        assert torch.equal(ours.images.permute(0, 2, 3, 1), torch.from_numpy(theirs.data))
        assert ours.labels.tolist() == theirs.targets
        assert list(ours.classes) == theirs.classes
        assert (ours.source, ours.split) == ("files", split)
    assert torch.equal(data.load("cifar10", limit=30).images, data.load("cifar10").take(30).images)
    with pytest.raises(ValueError, match="cifar10/train has 100 images"):
        data.load("cifar10", limit=101)


def test_a_changed_file_is_named_with_both_sums_and_the_cure_and_left_alone(cifar):
    home, one = cifar
    data.load("cifar10")
    path = home / "cifar-10-batches-py" / "data_batch_3"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(data.ChecksumError) as caught:
        data.load("cifar10")
    message = str(caught.value)
    for part in (str(path), md5(path)[4:], one["files"]["data_batch_3"][4:], "by hand"):
        assert part in message
    assert path.read_bytes() == bytes(content)


def test_a_missing_file_makes_the_set_incomplete(cifar):
    home, _ = cifar
    (home / "cifar-10-batches-py" / "test_batch").unlink()
    with pytest.raises(data.ChecksumError, match=r"test_batch is missing.*incomplete"):
        data.verify("cifar10")


@pytest.mark.parametrize("content", ["truncated", "other", "unsafe", "no labels"])
def test_a_file_that_is_no_cifar_batch_is_named_even_if_its_sum_fits(cifar, tmp_path, content):
    home, one = cifar
    path = home / "cifar-10-batches-py" / "data_batch_2"
    whole = path.read_bytes()
    path.write_bytes(
        {
            "truncated": whole[: len(whole) // 2],
            "other": pickle.dumps([1, 2]),
            "unsafe": pickle.dumps(print),
            "no labels": pickle.dumps({"data": 3}),
        }[content]
    )
    one["files"]["data_batch_2"] = md5(path)
    write_registry(tmp_path, [one])
    with pytest.raises(ValueError, match="data_batch_2"):
        data.load("cifar10")


def test_what_was_verified_is_not_read_again_until_it_changes(cifar, monkeypatch):
    home, _ = cifar
    assert data.verify("cifar10").checked == 7
    read = []
    real = verification.file_sum
    monkeypatch.setattr(
        verification, "file_sum", lambda p, kind="sha256": (read.append(p.name), real(p, kind))[1]
    )
    assert data.verify("cifar10").complete
    assert read == []
    data.verify("cifar10", again=True)
    assert len(read) == 7
    read.clear()
    path = home / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(path.read_bytes())
    data.verify("cifar10")
    assert read in (["test_batch"], [])  # a clock too coarse to see the write


def test_a_damaged_memory_of_verifications_costs_time_only(cifar, tmp_path):
    data.verify("cifar10")
    memory = tmp_path / "cache" / "verified.json"
    for text in ("{", "[]", ""):
        memory.write_text(text)
        assert data.verify("cifar10").checked == 7


def _folder_set(home, name="nette", per_class=3):
    for split in ("train", "val"):
        for label, wnid in enumerate(("n1", "n2")):
            for i in range(per_class):
                path = home / name / split / wnid / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (20, 20), (label * 100, i, 7)).save(path)
    sums = {
        f"{split}/{wnid}": {
            "files": per_class,
            "sum": verification.folder_sum(home / name / split / wnid),
        }
        for split in ("train", "val")
        for wnid in ("n1", "n2")
    }
    return toy_entry(name, path=name, layout="class_folders", folders=sums)


def test_a_folders_sum_notices_contents_names_and_missing_files(tmp_path, monkeypatch):
    home = toy_home(tmp_path, monkeypatch)
    write_registry(tmp_path, [_folder_set(home)])
    assert data.verify("nette").checked == 12
    path = home / "nette" / "train" / "n1" / "0.png"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    with pytest.raises(data.ChecksumError, match=r"train/n1 is damaged"):
        data.verify("nette")
    path.write_bytes(content)
    assert data.verify("nette").complete
    path.rename(path.with_name("9.png"))
    with pytest.raises(data.ChecksumError, match=r"train/n1"):
        data.verify("nette")
    path.with_name("9.png").unlink()
    with pytest.raises(data.ChecksumError, match="2 of 3 files"):
        data.verify("nette")


def test_a_larger_edition_is_used_and_reported_as_unchecked(tmp_path, monkeypatch):
    home = toy_home(tmp_path, monkeypatch)
    write_registry(tmp_path, [_folder_set(home)])
    Image.new("RGB", (20, 20)).save(home / "nette" / "val" / "n2" / "more.png")
    found = data.verify("nette")
    assert found.unchecked == ("val/n2",)
    assert not found.complete
    assert found.checked == 9


def test_the_books_registry_round_trips_through_yaml():
    text = registry.registry_file().read_text(encoding="utf-8")
    raw = yaml.safe_load(text)
    dumped = [one.model_dump(exclude_defaults=True) for one in data.datasets()]
    assert dumped == [{k: v for k, v in fields.items() if v != ""} for fields in raw]
