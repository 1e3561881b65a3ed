"""A notebook's session: the card's claims on one side, what was found on the other."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch

from compactnets import cells, paths, profiles
from compactnets.study import card as cards
from compactnets.study import record, views
from compactnets.study import tables as tabling
from compactnets.study.comparison import results_grid, table_grids
from compactnets.study.display import joined, line, show
from compactnets.study.observations import Label, Observations
from compactnets.study.record import Answer, Observation, Record
from compactnets.study.runlog import Parameter, RunLog
from compactnets.study.sources import Series, Source, larger_recorded, words
from compactnets.study.verdicts import (
    Check,
    ClaimFailed,
    Comparison,
    Evidence,
    UnansweredClaims,
    answer,
    comparisons,
    judge_part,
    lookup,
    outcome,
)

T = TypeVar("T")


class Study:
    """The session of one notebook: from the paper's card to the record of this run.

    slug: which paper. profile: smoke, quick, standard or full (in a script $COMPACTNETS_PROFILE
    goes first). seeds: how many (0, 1, ...) or which; default by profile (profiles.SEEDS).
    The clock starts here. card.CardError if the card is missing or has a bad field, ValueError
    for an unknown profile.
    """

    def __init__(
        self, slug: str, profile: str | None = None, *, seeds: int | Iterable[int] | None = None
    ) -> None:
        self.card = cards.load(slug)
        self.profile: profiles.ProfileName = profiles.resolve(profile, notebook=cells.in_notebook())
        count = profiles.SEEDS[self.profile] if seeds is None else seeds
        self.seeds = tuple(range(count)) if isinstance(count, int) else tuple(count)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be different and at least one, got {self.seeds}")
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.record: Record | None = None
        self._observed = Observations()
        self._evidence: dict[str, Evidence] = {}
        self._log = RunLog()

    def __repr__(self) -> str:
        return f"Study({self.card.slug!r}, profile={self.profile!r}, seeds={self.seeds})"

    # What the page says before anything runs

    def pick(self, *, smoke: T, quick: T, standard: T, full: T) -> T:
        """The value for this run's profile."""
        return profiles.pick(self.profile, smoke=smoke, quick=quick, standard=standard, full=full)

    def header(self, *image_sets: Any) -> None:
        """Shows verdicts of the largest recorded run, the paper, and what this run is.

        image_sets: data already loaded, logged as by use(). Without any, the page says that
        what it runs on is named where it is loaded.
        """
        for images in image_sets:
            self._log.use(images)
        show(views.header(self.card, self.profile, self._log.provenance, self._log.data))

    def claims(self) -> None:
        """Shows the card's claims: what each says, of which kind, where the paper says it."""
        show(views.claims(self.card))

    def reported(self, table: str) -> None:
        """Shows one of the paper's tables, each row with its source as a footnote."""
        show(tabling.reported_grid(tabling.find_table(self.card.tables, table)).shown())

    # What the run uses

    def use(self, *image_sets: T) -> T | tuple[T, ...]:
        """Logs and shows which data this run uses; returns what it was given.

        Each needs name, split, fingerprint, source and a length, as data.ImageSet has them.
        """
        show(views.data_use([self._log.use(images) for images in image_sets]))
        return image_sets[0] if len(image_sets) == 1 else image_sets

    def settings(self, **values: Parameter) -> None:
        """Logs and shows parameters of this run (epochs, images, width, …) for the record."""
        self._log.parameters.update(values)
        show(line(joined((f"{k} = {v!r}" for k, v in values.items()), ", ")))

    def trained(self, run: T, label: str = "", seed: int | None = None) -> T:
        """Counts a training run (of train.fit) into the record and returns it.

        A run from the cache counts with the seconds it took when it ran; one key counts once.
        """
        self._log.train(run, label, seed)
        return run

    # What was found

    def observe(
        self,
        metric: str,
        value: float,
        *,
        seed: int | None = None,
        unit: str | None = None,
        **labels: Label,
    ) -> None:
        """Logs one number; labels (method="ReBNN", w=1, …) say what it was measured on."""
        self._observed.add(
            Observation(metric=metric, value=float(value), seed=seed, unit=unit, labels=labels)
        )

    def values(self, metric: str, **labels: Label) -> dict[int, float]:
        """Value by seed of one row; ValueError if the labels fit no row, or more than one."""
        return self._observed.values(metric, labels)

    def value(self, metric: str, *, seed: int | None = None, **labels: Label) -> float:
        """The single value of a row (of one seed); ValueError if there is not exactly one."""
        return self._observed.value(metric, labels, seed)

    def frame(self, metric: str | None = None) -> pd.DataFrame:
        """Observations as a tidy frame: metric, value, unit, seed and a column per label."""
        return self._observed.frame(metric)

    def table(
        self,
        name: str,
        metrics: str | Iterable[str] | Mapping[str, str | None] | None = None,
        *,
        rows: tabling.Rows | None = None,
        also: tabling.Rows | None = None,
        by: str = "method",
        baseline: str | None = None,
        execution: str | Mapping[str, str] | None = None,
    ) -> None:
        """Shows the paper's table with ours beside it, differences computed.

        metrics: {our metric: the paper's column}, or names that agree. rows: {the paper's row: our
        labels}, else the row's name is our label `by`. also: rows of ours alone. baseline: the row
        that gains are taken against, theirs and ours (paired). execution: "simulated",
        "executed in 1 bit", …, for all or by row. If a larger run than this one is recorded, its
        table follows. ValueError for names that do not exist.
        """
        table = tabling.find_table(self.card.tables, name)
        columns = tabling.pair_columns(metrics, table, self._observed)
        lines = tabling.pair_rows(table, rows, also, by, self._observed)
        sources = self._sources([column.metric for column in columns])
        for grid in table_grids(sources, table.caption, columns, lines, baseline, execution):
            show(grid.shown())

    def results(
        self,
        caption: str,
        metrics: str | Iterable[str],
        rows: tabling.Rows,
        *,
        baseline: str | None = None,
        execution: str | Mapping[str, str] | None = None,
    ) -> None:
        """Shows a table of ours alone: rows {label: labels of the observations}.

        Rows that a run does not have are left out of its table. If a larger run than this one is
        recorded, its table follows.
        """
        names = [metrics] if isinstance(metrics, str) else list(metrics)
        for source in self._sources(names):
            show(results_grid(source, caption, names, rows, baseline, execution).shown())

    def shown(self, metric: str) -> Series:
        """Observations to draw: of the largest recorded run if it is larger than this one and has
        the metric, else of this run; with a phrase that says which."""
        source = self._sources([metric])[-1]
        return Series(source.observed.frame(metric), source.words)

    def _sources(self, metrics: list[str]) -> list[Source]:
        """This run, then the largest recorded one if it is larger and has all the metrics."""
        recorded = larger_recorded(self.card.slug, self.profile)
        if recorded is None or not all(recorded.observed.has(metric, {}) for metric in metrics):
            return [self._this()]
        return [self._this(), recorded]

    def _this(self) -> Source:
        data = (d.name for d in self._log.data)
        name = words("obtained", self._log.run_id, self.profile, data)
        return Source(self._observed, {}, name)

    # What follows from it

    def prove(
        self, claim: str, ok: bool | Mapping[str, bool], evidence: str, *, part: str = ""
    ) -> None:
        """Notes whether an exact claim holds and shows it; ClaimFailed if it does not.

        ok: one truth value, or several by name (all must hold). part: name, if a claim is proved
        in several cells.
        """
        evidence, holds = self._check(claim, "exact", ok, evidence, part)
        if not holds:
            statement = self.card.claims[claim].statement
            raise ClaimFailed(f"{self.card.slug} {claim} does not hold: {statement} [{evidence}]")

    def judge(
        self,
        claim: str,
        a: Mapping[int, float] | Comparison,
        b: Mapping[int, float] | float | Comparison | None = None,
        *more: Comparison,
        label: str = "a − b",
        unit: str | None = None,
    ) -> None:
        """Judges a statistical claim "a > b + margin" over paired seeds and shows the test.

        If a larger run is recorded, its verdict follows. a, b: value by seed, as from values(); b
        may be a fixed number. Or one Comparison per part:
        the claim holds if all parts hold. The margin is the card's. Parts add up over calls; a
        part named again replaces the earlier. ValueError if the seeds of a and b differ.
        """
        statement = lookup(self.card, claim, "statistical")
        parts = comparisons(a, b, more, label)
        names = [part.label for part in parts]
        if len(set(names)) < len(names):
            raise ValueError(f"claim {claim}: each comparison needs its own label, got {names}")
        judged = [judge_part(part, statement.margin) for part in parts]
        noted = self._note(claim)
        noted.unit = unit or noted.unit
        noted.parts.update({part.label: part for part in judged})
        show(views.judged(self.answer(claim)))
        recorded = larger_recorded(self.card.slug, self.profile)
        if recorded is not None and claim in recorded.answers:
            show(views.judged(recorded.answers[claim], recorded.words))

    def measure(
        self, claim: str, ok: bool | Mapping[str, bool], evidence: str, *, part: str = ""
    ) -> None:
        """Notes whether a measured (speed) claim holds here and shows it; never stops the page."""
        self._check(claim, "measured", ok, evidence, part)

    def _check(self, claim: str, kind: str, ok, evidence: str, part: str) -> tuple[str, bool]:
        lookup(self.card, claim, kind)
        holds, failed = outcome(ok, claim)
        evidence = f"{evidence} (failed: {failed})" if failed else evidence
        check = Check("holds" if holds else "fails", evidence)
        self._note(claim).checks[part] = check
        show(views.one_answer(self.answer(claim), evidence, check.verdict))
        return evidence, holds

    def untested(self, claim: str, reason: str) -> None:
        """Says openly that this run does not answer a claim, and why."""
        lookup(self.card, claim)
        if not reason.strip():
            raise ValueError(f"claim {claim}: say why it is not tested")
        self._note(claim).untested = reason
        show(views.one_answer(self.answer(claim), reason, "not tested"))

    def forget(self, claim: str) -> None:
        """Takes back what this session said about a claim (for experiments in JupyterLab)."""
        lookup(self.card, claim)
        self._evidence.pop(claim, None)

    def answer(self, claim: str) -> Answer:
        """The verdict on a claim so far; KeyError if nothing was said about it."""
        return answer(claim, lookup(self.card, claim), self._evidence[claim])

    def answers(self) -> list[Answer]:
        """Verdicts so far, in the card's order."""
        return [self.answer(claim) for claim in self.card.claims if claim in self._evidence]

    def _note(self, claim: str) -> Evidence:
        return self._evidence.setdefault(claim, Evidence())

    # The end

    def recorded(self) -> None:
        """Shows the committed run of the largest profile beside this one."""
        show(views.recorded(self.card, record.largest(self.card.slug), self._build_record()))

    def finish(self) -> None:
        """Writes the record and shows the verdicts.

        UnansweredClaims if the card has a claim that was neither answered nor declared untested.
        The record goes to $COMPACTNETS_RECORD, else to _build/records/<slug>/<profile>.json.
        """
        if open_claims := [c for c in self.card.claims if c not in self._evidence]:
            raise UnansweredClaims(
                f"{self.card.slug}: no verdict on {', '.join(open_claims)}: answer each by prove, "
                "judge or measure, or say why not by study.untested(claim, reason)"
            )
        self.record = self._build_record()
        record.write(self.record, record_path(self.card.slug, self.profile))
        show(views.verdicts(self.card, self.record) + views.run_line(self.record))

    def _build_record(self) -> Record:
        return Record(
            slug=self.card.slug,
            profile=self.profile,
            seeds=sorted({row.seed for row in self._observed if row.seed is not None}),
            observations=list(self._observed),
            answers=self.answers(),
            **self._log.facts(),
        )


def record_path(slug: str, profile: str) -> Path:
    """Where a run leaves its record: $COMPACTNETS_RECORD, else a place under _build."""
    if named := os.environ.get("COMPACTNETS_RECORD"):
        return Path(named).expanduser()
    return paths.build_dir() / "records" / slug / f"{profile}.json"
