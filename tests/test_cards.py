"""The 121 paper cards: complete, valid, and honest about what is not known."""

import re
from pathlib import Path

import pytest

from compactnets.book import pages_outline as outline
from compactnets.study import card


@pytest.fixture(scope="module")
def cards() -> dict[str, card.Card]:
    return {slug: card.load(slug) for slug in card.slugs()}


def test_there_are_121_cards_in_14_chapters_and_each_is_in_the_reading_order_once(cards):
    listed = [slug for chapter in outline.chapters() for slug in chapter.papers]
    assert len(listed) == len(set(listed)) == 121
    assert set(listed) == set(cards)
    assert len(outline.chapters()) == 14


def test_a_card_names_the_chapter_that_lists_it(cards):
    for chapter in outline.chapters():
        for slug in chapter.papers:
            assert cards[slug].chapter == chapter.name, slug


def test_titles_and_arxiv_numbers_are_unique_and_well_formed(cards):
    titles = [c.title for c in cards.values()]
    numbers = [c.arxiv for c in cards.values() if c.arxiv]
    assert len(set(titles)) == len(titles)
    assert len(set(numbers)) == len(numbers)
    assert all(re.fullmatch(r"\d{4}\.\d{4,5}", number) for number in numbers)
    assert all(c.code is None or c.code.count("/") == 1 for c in cards.values())


def test_every_summary_has_two_to_six_sentences(cards):
    for slug, c in cards.items():
        sentences = re.findall(r"[.!?](?:\s|$)", c.summary)
        assert 2 <= len(sentences) <= 6, slug
        assert len(c.summary) > 150, slug


def test_every_headline_figure_has_a_source(cards):
    assert all(line.source for c in cards.values() for line in c.headline)


def test_a_planned_card_makes_no_claims_and_a_written_one_sources_each(cards):
    for slug, c in cards.items():
        if c.status == "planned":
            assert not c.claims, slug
        else:
            assert c.claims, slug
            assert all(claim.source for claim in c.claims.values()), slug
            assert all(row.source for table in c.tables.values() for row in table.rows), slug


def test_rebnn_has_the_claims_of_its_page_and_the_seven_deviations():
    c = card.load("rebnn")
    kinds = {name: claim.kind for name, claim in c.claims.items()}
    assert [n for n, k in kinds.items() if k == "exact"] == [f"E{i}" for i in range(1, 8)]
    assert [n for n, k in kinds.items() if k == "statistical"] == [f"S{i}" for i in range(1, 5)]
    assert c.claims["K1"].source == "this book"
    assert len(c.errata) == 7
    top1 = {row.label: row.values["top1"] for row in c.tables["imagenet-resnet18"].rows}
    assert top1 == {"ReActNet": 65.9, "ReCU": 66.4, "RBONN": 66.7, "ReBNN": 66.9}


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("tier: 1", "tier: 9", "tier"),
        ("year: 2020", "year: soon", "year"),
        ("status: planned", "status: nearly", "status"),
        ("short: TinyNet", "shrt: TinyNet", "shrt"),
        ("    metric: top-1 accuracy\n", "    metrik: top-1 accuracy\n", "headline.0.metrik"),
    ],
)
def test_a_card_with_a_bad_field_names_file_and_field(tmp_path: Path, old, new, field):
    good = (card.paths.papers_dir() / "tinynet.yml").read_text(encoding="utf-8")
    assert old in good
    bad = tmp_path / "tinynet.yml"
    bad.write_text(good.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(card.CardError) as error:
        card.read(bad)
    assert str(bad) in str(error.value)
    assert field in str(error.value)


def test_an_unknown_slug_gets_its_nearest_neighbors():
    with pytest.raises(card.CardError, match="rebnn"):
        card.load("rebn")
