"""compactnets papers, compactnets show: the cards and the recorded runs."""

import difflib
import json
from collections import Counter
from typing import Annotated, Any

import typer

from compactnets.study import card as cards
from compactnets.study import record as records
from compactnets.study import views
from compactnets.study.card import Card
from compactnets.study.display import Grid
from compactnets.study.tables import reported_grid


def papers(
    chapter: Annotated[str | None, typer.Option(help="Only this chapter's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Lists the papers with status and the verdicts of the largest recorded run."""
    found = [cards.load(slug) for slug in cards.slugs()]
    known = sorted({card.chapter for card in found})
    if chapter is not None:
        if chapter not in known:
            near = difflib.get_close_matches(chapter, known, n=3) or known
            raise ValueError(f"no chapter {chapter!r}: choose {', '.join(near)}")
        found = [card for card in found if card.chapter == chapter]
    entries = [entry(card) for card in found]
    if as_json:
        typer.echo(json.dumps(entries, indent=1, ensure_ascii=False))
        return
    grid = Grid(
        f"{len(entries)} papers", ["slug", "short", "chapter", "status", "profile", "verdicts"]
    )
    for one in entries:
        counts = ", ".join(f"{n} {verdict}" for verdict, n in one["verdicts"].items())
        facts = [one[name] for name in ("slug", "short", "chapter", "status")]
        grid.rows.append([*facts, one["profile"] or "–", counts or "–"])
    typer.echo(grid.shown().plain)


def entry(card: Card) -> dict[str, Any]:
    """One paper's line: facts of the card, verdict counts of the largest recorded run."""
    record = records.largest(card.slug)
    counts = Counter(answer.verdict for answer in record.answers) if record else Counter()
    return {
        "slug": card.slug,
        "short": card.short,
        "title": card.title,
        "year": card.year,
        "chapter": card.chapter,
        "status": card.status,
        "claims": len(card.claims),
        "profile": record.profile if record else None,
        "verdicts": {verdict: counts[verdict] for verdict in views.ORDER if counts[verdict]},
    }


def show(slug: Annotated[str, typer.Argument(help="Which paper, e.g. rebnn.")]) -> None:
    """Shows a paper's card: facts, reported tables, claims, errata, recorded runs."""
    card = cards.load(slug)
    parts = [views.bibliography(card), views.cite_as(card), *views_of_numbers(card)]
    for part in parts:
        typer.echo(part.plain + "\n")
    typer.echo(card.summary.strip() + "\n")
    if card.errata:
        typer.echo("What the released code does differently:")
    for erratum in card.errata:
        typer.echo(f"- {erratum.what} ({erratum.where}): {erratum.effect}")
    runs = records.recorded(slug)
    if not runs:
        typer.echo("\nNo recorded run yet.")
    for profile, run in runs.items():
        typer.echo(f"\nRecorded at profile {profile}, {run.started[:10]}")
        typer.echo((views.verdicts(card, run) + views.run_line(run)).plain)


def views_of_numbers(card: Card) -> list[Any]:
    """The reported tables and the claims, as far as the card has them."""
    shown = [reported_grid(table).shown() for table in card.tables.values()]
    return shown + ([views.claims(card)] if card.claims else [])
