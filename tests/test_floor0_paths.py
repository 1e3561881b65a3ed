"""Where things lie, how large a run is, and random streams."""

import os
import re
import threading

import pytest
import torch

from compactnets import paths, profiles, seeds


def test_the_checkout_is_found_from_any_folder_inside_it(tmp_path, monkeypatch):
    monkeypatch.delenv("COMPACTNETS_HOME", raising=False)
    (tmp_path / "data" / "papers").mkdir(parents=True)
    inside = tmp_path / "notebooks" / "binary"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    assert paths.project_root() == tmp_path.resolve()


def test_a_named_home_that_is_no_checkout_is_an_error_that_names_the_cure(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPACTNETS_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="COMPACTNETS_HOME"):
        paths.project_root()


def test_variables_move_build_cache_and_data(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPACTNETS_BUILD", str(tmp_path / "b"))
    monkeypatch.setenv("COMPACTNETS_CACHE", str(tmp_path / "c"))
    monkeypatch.setenv("COMPACTNETS_DATA", str(tmp_path / "d"))
    assert paths.build_dir() == tmp_path / "b"
    assert paths.data_dirs() == [tmp_path / "d", tmp_path / "c" / "data"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "deep" / "record.json"
    with paths.write_atomically(target) as part:
        part.write_text("old")

    def interrupted() -> None:
        with paths.write_atomically(target) as part:
            part.write_text("half of the n")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        interrupted()
    assert target.read_text() == "old"
    assert os.listdir(target.parent) == ["record.json"]


def test_a_reader_never_sees_a_part_of_a_file_while_many_write_it(tmp_path):
    target = tmp_path / "shared.txt"
    texts = [str(i) * 20_000 for i in range(4)]
    seen: set[str] = set()

    def write(words: str) -> None:
        for _ in range(20):
            with paths.write_atomically(target) as part:
                part.write_text(words)

    writers = [threading.Thread(target=write, args=(words,)) for words in texts]
    write(texts[0])
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        seen.add(target.read_text())
    assert seen
    assert seen <= set(texts)
    assert [path.name for path in tmp_path.iterdir()] == ["shared.txt"]


def test_an_unknown_profile_lists_the_known_ones():
    with pytest.raises(ValueError, match=re.escape("smoke, quick, standard, full")):
        profiles.check("huge")


def test_each_profile_picks_its_own_value():
    values = {"smoke": 1, "quick": 2, "standard": 3, "full": 4}
    assert [profiles.pick(p, **values) for p in profiles.PROFILES] == [1, 2, 3, 4]


def test_the_cell_decides_in_a_notebook_and_the_variable_in_a_script(monkeypatch):
    monkeypatch.setenv("COMPACTNETS_PROFILE", "standard")
    assert profiles.resolve("smoke", notebook=True) == "smoke"
    assert profiles.resolve("smoke", notebook=False) == "standard"
    assert profiles.resolve(None, notebook=True) == "standard"
    monkeypatch.delenv("COMPACTNETS_PROFILE")
    assert profiles.resolve("smoke", notebook=False) == "smoke"
    assert profiles.resolve(None, notebook=False) == "quick"


def test_a_misspelt_profile_variable_is_an_error(monkeypatch):
    monkeypatch.setenv("COMPACTNETS_PROFILE", "qiuck")
    with pytest.raises(ValueError, match="qiuck"):
        profiles.resolve("quick", notebook=False)


def test_streams_of_different_purposes_differ_and_repeat():
    again = [torch.rand(4, generator=seeds.generator(0, "augment", 1)) for _ in range(2)]
    other = torch.rand(4, generator=seeds.generator(0, "augment", 2))
    assert torch.equal(*again)
    assert not torch.equal(again[0], other)


def test_a_derived_seed_is_the_same_on_every_machine():
    # printf 0/init | sha256sum: the first eight bytes, lowest first, without their last bit
    assert (
        seeds.derive(0, "init") == int.from_bytes(bytes.fromhex("2a29a3e290b9715c"), "little") // 2
    )


def test_scoped_seeds_the_block_and_restores_what_was_before():
    with torch.random.fork_rng():
        torch.manual_seed(7)
        expected = torch.rand(2, 3)
        torch.manual_seed(7)
        first = torch.rand(3)
        with seeds.scoped(1, "init"):
            inside = torch.rand(3)
        with seeds.scoped(1, "init"):
            assert torch.equal(torch.rand(3), inside)
        assert torch.equal(torch.stack([first, torch.rand(3)]), expected)


def test_scoped_restores_after_an_error():
    state = torch.get_rng_state()

    def fails() -> None:
        with seeds.scoped(3):
            torch.rand(1)
            raise KeyError("x")

    with pytest.raises(KeyError):
        fails()
    assert torch.equal(torch.get_rng_state(), state)
