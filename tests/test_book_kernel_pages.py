"""The readable code of the kernels' pages computes what the kernels' references compute; tables
and pictures of recorded contests."""

import json
import re

import pytest
import torch
from torch.nn import functional as F

from compactnets import paths
from compactnets.book import pages_contests as contests
from compactnets.book import pages_roofline as roofline
from compactnets.book import pages_tricks as tricks

PAGES = sorted((paths.project_root() / "book" / "kernels").glob("*.md"))


def code_of(page: str) -> dict:
    """The names that a page's Python blocks define, run one after the other."""
    text = (paths.project_root() / "book" / "kernels" / f"{page}.md").read_text(encoding="utf-8")
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)
    return names


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def signs(*shape):
    return torch.where(torch.randn(shape) >= 0, 1, -1)


def test_one_bit_product_and_the_pair_trick_count_what_signs_multiply():
    page = code_of("one-bit")
    a, w = signs(5, 37), signs(3, 37)
    assert torch.equal(page["product"](page["pack"](a), page["pack"](w), 37), a @ w.T)
    words_a, words_w = torch.randint(256, (2, 6, 4))
    plain = page["ONES"][words_a ^ words_w].sum(0)
    assert torch.equal(page["count_pairs"](words_a, words_w), plain)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_fits_the_page_without_scrolling(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        assert [line for line in block.splitlines() if len(line) > 76] == []


def test_affine_product_equals_the_float_product_of_what_the_codes_stand_for():
    page = code_of("int8")
    q = torch.randint(256, (4, 70), dtype=torch.uint8)
    p = torch.randint(-128, 128, (3, 70), dtype=torch.int8)
    y = page["affine_product"](q, 31, p, torch.tensor([0.5, 1.0, 2.0]))
    assert torch.equal(y, (q.float() - 31) @ p.float().T * torch.tensor([0.5, 1.0, 2.0]))


def test_nested_masks_take_both_halves_of_a_byte():
    page = code_of("int8")
    low, high = torch.randint(16, (2, 9))
    a_low, a_high = torch.randint(-128, 128, (2, 9))
    expected = (a_low * low + a_high * high).sum()
    assert page["nested"](a_low, a_high, 16 * high + low) == expected


def test_sparse_products_equal_the_dense_one():
    page = code_of("sparse")
    x = torch.randn(12, 7)
    dense = torch.randn(8, 12) * (torch.rand(8, 12) < 0.4)
    csr = dense.to_sparse_csr()
    y = page["csr_product"](csr.values(), csr.col_indices(), csr.crow_indices(), x)
    torch.testing.assert_close(y, dense @ x)
    keep = torch.rand(2, 12) < 0.5
    blocks = torch.randn(2, 12, 4) * keep[..., None]
    starts = torch.cat((torch.zeros(1, dtype=torch.long), keep.sum(1).cumsum(0)))
    y = page["block_product"](blocks[keep], keep.nonzero()[:, 1], starts, x)
    torch.testing.assert_close(y, blocks.transpose(1, 2).flatten(0, 1) @ x)


def test_nm_product_equals_the_dense_one():
    x, weight = torch.randn(3, 8), torch.randn(5, 4)
    index = torch.stack([torch.randperm(8)[:4] for _ in range(5)])
    dense = torch.zeros(5, 8).scatter(1, index, weight)
    torch.testing.assert_close(code_of("nm")["nm_product"](x, weight, index), x @ dense.T)


def test_l1_distances_equal_cdist():
    a, w = torch.randn(6, 20), torch.randn(4, 20)
    torch.testing.assert_close(code_of("adder")["l1_distances"](a, w), torch.cdist(a, w, p=1))


def test_the_winograd_tile_equals_the_convolution():
    d, g = torch.randn(5, 4, 4, 4), torch.randn(3, 5, 3, 3, 3)
    torch.testing.assert_close(code_of("winograd")["tile"](d, g), F.conv3d(d[None], g)[0])


@pytest.mark.parametrize(("dy", "dx"), [(0, 0), (2, -1), (-3, 1), (9, 0)])
def test_shift_moves_and_fills_with_zeros(dy, dx):
    x = torch.rand(4, 6) + 1
    y = code_of("shift-dct")["shift"](x, dy, dx)
    for i in range(4):
        for j in range(6):
            inside = 0 <= i - dy < 4 and 0 <= j - dx < 6
            assert y[i, j] == (x[i - dy, j - dx] if inside else 0)


def test_a_full_dct_mask_changes_nothing_and_an_empty_one_leaves_nothing():
    dct_mask = code_of("shift-dct")["dct_mask"]
    block = torch.randn(8, 8)
    torch.testing.assert_close(dct_mask(block, torch.ones(8, 8)), block)
    only_mean = torch.zeros(8, 8)
    only_mean[0, 0] = 1
    torch.testing.assert_close(dct_mask(block, only_mean), block.mean().expand(8, 8))


@pytest.mark.parametrize("name", tricks.PICTURES)
def test_every_trick_is_drawn_and_shown_on_a_page(name):
    assert tricks.PICTURES[name]().startswith("<svg")
    include = f"_generated/picture-{name}.md"
    assert any(include in page.read_text(encoding="utf-8") for page in PAGES)


def test_a_picture_whose_sides_disagree_is_not_drawn():
    with pytest.raises(ArithmeticError, match="the trick gives 3, the plain way 4"):
        tricks.agree(3, 4)


def row(shape="8x8", isa="avx512", threads=1, ours=10.0, peer="torch", theirs=30.0, **more):
    given = {
        "kernel": "k", "shape": shape, "threads": threads, "isa": isa, "ours_us": ours,
        "peer": peer, "peer_us": theirs, "ratio": theirs / ours, "max_error": 0.0,
        "ratio_p5": 1.0, "ratio_p95": 4.0, "operations": 1e6, "unit": "fp32", "traffic": 1e4,
    }  # fmt: skip
    return given | more


CONTENT = {
    "title": "a kernel",
    "machine": {"CPU": "x<y"},
    "versions": {"torch": "2"},
    "peaks": {
        "avx512.fp32_fma": 200.0,
        "avx2.fp32_fma": 100.0,
        "amx.int8_dot": 900.0,
        "avx512.bit_pairs": 500.0,
        "read.l2": 50.0,
        "read.memory": 10.0,
    },
    "parts": {"stem": 30.0, "rest": 90.0},
    "rows": [
        row(),
        row(peer="other", theirs=5.0, max_error=None, note="rounds"),
        row(threads=2, ours=6.0),
        row(isa="avx2", ours=20.0),
        row(shape="9x9", ours=50.0),
    ],
}


def test_a_contest_shows_ratio_share_paths_threads_and_what_is_not_the_same():
    text = contests.section(CONTENT)
    assert "3×" in text and "50%" in text  # 1e6 operations in 10 us: half of 200 G/s
    assert 'class="cn-slower">0.5×*' in text and "other: rounds" in text
    assert "20 µs (0.50)" in text  # half as fast on avx2
    assert "6 µs (1.67×)" in text  # on two threads
    assert "<th>stem</th><td>30 µs</td><td>25%</td>" in text
    assert "CPU x<y" in text and "torch 2" in text


def test_times_have_three_digits_that_count():
    times = [contests.microseconds(t) for t in (0.5, 99.96, 1080.4, 45_600.0, 1.2e6)]
    assert times == ["0.5 µs", "100 µs", "1,080 µs", "45.6 ms", "1,200 ms"]


def test_ratios_have_three_digits_that_count():
    assert [contests.times_faster(r) for r in (0.934, 4.5, 123.4)] == ["0.934×", "4.5×", "123×"]


def test_the_share_of_the_peak_counts_threads_and_falls_to_the_next_path():
    peaks = CONTENT["peaks"]
    assert contests.share(row(threads=2, ours=5.0), peaks) == 0.5
    assert contests.share(row(isa="amx"), peaks) == 0.5
    assert contests.share(row(unit="int8"), peaks) is None
    assert contests.limit("1-bit", "amx", peaks) == "amx.int8_dot"
    assert contests.limit("1-bit", "avx512", peaks) == "avx512.bit_pairs"


def test_the_best_peer_is_the_fastest_that_computes_the_same():
    ((name, best), (_, second)) = roofline._rivals({"k": CONTENT})
    assert (name, best["peer"], best["ratio"]) == ("k 8x8", "torch", 3.0)
    assert second["ratio"] == 0.6
    picture = roofline.best_peers({"k": CONTENT})
    assert "cn-fails" in picture and "3× torch" in picture


def test_the_roofline_has_a_point_per_shape_under_the_measured_limits():
    picture = roofline.roofline(CONTENT)
    assert picture.count("cn-point") == 2
    assert "avx512.fp32_fma" in picture and "l2, 50 GB/s" in picture
    assert roofline.roofline({**CONTENT, "peaks": {}}) is None


def test_a_record_without_rows_is_an_error_that_names_it(tmp_path):
    (tmp_path / "empty.json").write_text(json.dumps({"title": "nothing"}))
    with pytest.raises(ValueError, match=r"empty\.json holds no rows"):
        contests.contests(tmp_path)
    assert contests.contests(tmp_path / "none") == {}


def test_every_record_is_shown_on_a_page():
    shown = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name in contests.contests(paths.results_dir() / "kernels"):
        assert f"_generated/kernel-{name}.md" in shown
