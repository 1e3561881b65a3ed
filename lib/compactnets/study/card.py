"""A paper's card: bibliographic facts, reported numbers with their sources, claims, errata."""

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compactnets import paths

Kind = Literal["exact", "statistical", "measured"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Observed(_Strict):
    """Which observations of a record answer a headline: a metric on rows with these labels.

    over: labels of the rows that it is a gain over; values are then differences per seed.
    """

    metric: str
    labels: dict[str, str | int | float | bool]
    over: dict[str, str | int | float | bool] | None = None


class Headline(_Strict):
    """One number the abstract promises."""

    text: str
    metric: str | None = None
    value: float | str | None = None
    unit: str | None = None
    setting: str | None = None
    source: str | None = None
    observed: Observed | None = None


class Row(_Strict):
    """One line of a reported table; None marks a number that could not be had."""

    label: str
    values: dict[str, float | str | None]
    source: str


class Table(_Strict):
    """A reported table: columns in order, each with its unit (percent, top-1 accuracy, …)."""

    caption: str
    columns: dict[str, str]
    rows: list[Row]

    @model_validator(mode="after")
    def _rows_use_known_columns(self) -> "Table":
        for row in self.rows:
            if unknown := set(row.values) - set(self.columns):
                raise ValueError(f"row {row.label!r} has unknown columns {sorted(unknown)}")
        return self


class Claim(_Strict):
    """What the paper says, as a predicate that a notebook can answer.

    margin: a statistical claim "a > b" holds if the interval of a - b lies above it.
    """

    kind: Kind
    statement: str
    source: str | None = None
    margin: float = 0.0


class Erratum(_Strict):
    """A difference between the paper and its released code (or within either)."""

    what: str
    where: str
    effect: str
    claim: str | None = None


class Card(_Strict):
    """Everything known of a paper before its first run; data/papers/<slug>.yml."""

    slug: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    title: str
    short: str
    authors: list[str] = []
    venue: str | None = None
    year: int
    arxiv: str | None = None
    doi: str | None = None
    code: str | None = Field(None, description="owner/name on GitHub")
    code_licence: str | None = None
    chapter: str
    family: str | None = None
    task: str | None = None
    tier: Literal[1, 2, 3]
    status: Literal["planned", "written"] = "planned"
    summary: str
    headline: list[Headline] = []
    tables: dict[str, Table] = {}
    claims: dict[str, Claim] = {}
    errata: list[Erratum] = []
    holes: list[str] = Field([], description="numbers or formulas that could not be had")

    @model_validator(mode="after")
    def _errata_name_known_claims(self) -> "Card":
        for erratum in self.errata:
            if erratum.claim is not None and erratum.claim not in self.claims:
                raise ValueError(f"erratum names unknown claim {erratum.claim!r}")
        return self


class CardError(ValueError):
    """A card that is missing or does not fit the schema; the message names field and cure."""


def load(slug: str) -> Card:
    """The card of one paper; CardError names the slug's nearest neighbours or the bad field."""
    path = paths.papers_dir() / f"{slug}.yml"
    if not path.exists():
        import difflib

        near = difflib.get_close_matches(slug, slugs(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "see `compactnets papers`"
        raise CardError(f"no paper {slug!r} in {path.parent}: {hint}")
    return read(path)


def read(path: Path) -> Card:
    """Reads and checks one card file."""
    try:
        card = Card.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise CardError(f"{path} is not valid YAML: {error}") from None
    except ValidationError as error:
        details = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'card'}: {e['msg']}" for e in error.errors()
        )
        raise CardError(f"{path} does not fit the card schema: {details}") from None
    if card.slug != path.stem:
        raise CardError(f"{path}: slug is {card.slug!r}, the file name says {path.stem!r}")
    return card


def slugs() -> list[str]:
    """All known papers, sorted."""
    return sorted(p.stem for p in paths.papers_dir().glob("*.yml"))
