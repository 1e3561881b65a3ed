"""The parts of a page that a Study shows: header, claims, verdicts, recorded runs."""

from collections import Counter
from collections.abc import Iterable, Sequence

from compactnets import profiles
from compactnets.stats import Verdict
from compactnets.study import record as records
from compactnets.study.card import Card
from compactnets.study.display import (
    Grid,
    Shown,
    Text,
    badge,
    bold,
    joined,
    line,
    link,
    text,
    warning,
)
from compactnets.study.record import Answer, DataUse, Provenance, Record
from compactnets.study.tables import seed_list
from compactnets.study.verdicts import explain, interval

ORDER: tuple[Verdict, ...] = ("holds", "fails", "undecided", "not tested")


def header(card: Card, profile: str, machine: Provenance, used: Sequence[DataUse]) -> Shown:
    """Badge line of the largest record, the paper and how to cite it, and what this run is."""
    shown = badge_line(records.largest(card.slug)) + bibliography(card) + cite_as(card)
    device = machine.gpu or machine.cpu
    budget = profiles.BUDGET_SECONDS.get(profile)
    size = f"at most {duration(budget)} on two cores" if budget else "the paper's own recipe, GPU"
    shown += line(bold("This run:"), f"profile {profile} ({size}), on {device}.")
    if used:
        return shown + data_use(used)
    return shown + line("Its data are named where they are loaded.")


def badge_line(record: Record | None) -> Shown:
    """Verdict counts of a record, or the plain word that there is none yet."""
    if record is None:
        return line(bold("No recorded run yet."))
    counts = Counter(one.verdict for one in record.answers)
    badges = [badge(v, f"{counts[v]} {v}") for v in ORDER if counts[v]]
    where = f"recorded at profile {record.profile}, {record.started[:10]}"
    if any(d.source == "embedded" for d in record.data):
        where += ", on the embedded data"
    return line(*badges, where)


def bibliography(card: Card) -> Shown:
    """Title, authors, venue and links."""
    links = []
    if card.arxiv:
        links.append(link(f"arXiv:{card.arxiv}", f"https://arxiv.org/abs/{card.arxiv}"))
    if card.doi:
        links.append(link(f"doi:{card.doi}", f"https://doi.org/{card.doi}"))
    if card.code:
        licence = f" ({card.code_licence})" if card.code_licence else ""
        links.append(link(f"code: {card.code}", f"https://github.com/{card.code}") + licence)
    where = card.venue or str(card.year)
    return line(joined([bold(card.title), ", ".join(card.authors), where, *links]))


def cite_as(card: Card) -> Shown:
    """One sentence to cite the paper by; the page asks to be cited beside it."""
    authors = ", ".join(card.authors) or "Unknown authors"
    where = card.venue or (f"arXiv:{card.arxiv}" if card.arxiv else "")
    if str(card.year) not in where:
        where = f"{where} ({card.year})".strip()
    page = f"Compact Networks, page “{card.slug}”"
    return line(bold("Cite as:"), f"{authors}. {card.title}. {where}. Reproduction: {page}.")


def data_use(used: Iterable[DataUse]) -> Shown:
    """Which images, how many, from where; a warning when they are the embedded default."""
    sets = list(used)
    words = ", ".join(f"{d.name} {d.split} ({d.items} items, sha256 {d.sha256[:12]})" for d in sets)
    shown = line(bold("Data:"), words)
    if drawn := sorted({d.name for d in sets if d.source == "embedded"}):
        shown += warning(
            f"{', '.join(drawn)} holds images drawn by a program, the stand-in for real data. "
            "What is obtained on it does not compare with the paper's numbers; put real data "
            "where COMPACTNETS_DATA points, or see `compactnets data list`."
        )
    return shown


def claims(card: Card) -> Shown:
    """The claims as they stand on the card, before any run."""
    columns = ["claim", "kind", "statement", "holds if"]
    grid = Grid("What the paper claims, as predicates", columns)
    how = {"exact": "proved on this page", "measured": "timed on this machine"}
    for name, claim in card.claims.items():
        rule = how.get(claim.kind, f"interval of the difference > {claim.margin:g}")
        label = bold(name) + (grid.note(claim.source) if claim.source else "")
        grid.rows.append([label, claim.kind, claim.statement, rule])
    return grid.shown()


def one_answer(answer: Answer, evidence: str, verdict: Verdict) -> Shown:
    """One tidy line: verdict, claim, statement, evidence."""
    return line(badge(verdict), bold(answer.claim), f"{answer.statement} — {evidence}")


def judged(answer: Answer, words: str = "") -> Shown:
    """A statistical claim: its statement, then each part with n, interval and margin.

    words: of a run that is not this one, shown in place of the statement.
    """
    shown = line(badge(answer.verdict), bold(answer.claim), words or answer.statement)
    unit = f" ({answer.unit})" if answer.unit else ""
    columns = ["difference", "n", f"mean{unit}", "95 % interval", "margin", "verdict"]
    grid = Grid(answer.test or "", columns, right=frozenset({1, 2, 3, 4}))
    margin = answer.margin or 0.0
    for part in answer.parts:
        found = interval(part)
        bounds = "unbounded" if part.n == 1 else f"[{found.low:+.3g}, {found.high:+.3g}]"
        cells = [part.label, part.n, f"{part.mean:+.3g}", bounds, f"{margin:g}"]
        grid.rows.append([*cells, badge(part.verdict)])
        if part.verdict == "undecided":
            grid.below.append(explain(part, margin, answer.unit))
    return shown + grid.shown()


def verdicts(card: Card, done: Record) -> Shown:
    """The closing table: every claim with its verdict and what it rests on."""
    found = {one.claim: one for one in done.answers}
    grid = Grid(f"Verdicts of this run, profile {done.profile}", ["claim", "verdict", "evidence"])
    for name, claim in card.claims.items():
        label = joined([bold(name), claim.statement], " ")
        one = found[name]
        grid.rows.append([label, badge(one.verdict), one.evidence])
    return grid.shown()


def run_line(done: Record) -> Shown:
    """Profile, time, data, test reads and revision of a run in one line."""
    machine = done.provenance
    return line(
        joined(
            [
                f"Run {done.run_id}",
                f"{duration(done.wall_seconds)} in all",
                f"{duration(done.training_seconds)} of training (cached runs included)",
                ", ".join(f"{d.name} {d.split}: {d.items}" for d in done.data),
                f"{len(done.test_reads)} readings of a test split",
                f"kernels: {machine.kernels}",
                f"precision: {machine.precision}",
                _revision(machine),
            ]
        )
    )


def recorded(card: Card, kept: Record | None, fresh: Record) -> Shown:
    """The recorded run of the largest profile beside this one, verdict by verdict."""
    if kept is None:
        return line(
            f"No recorded run of {card.short} yet: the verdicts on this page are this run's, "
            f"profile {fresh.profile}."
        )
    headings = ["claim", f"recorded ({kept.profile})", f"this run ({fresh.profile})"]
    grid = Grid("Recorded run beside this one", headings)
    old, new = ({one.claim: one for one in run.answers} for run in (kept, fresh))
    for name in card.claims:
        cells = [badge(run[name].verdict) if name in run else "–" for run in (old, new)]
        grid.rows.append([bold(name), *cells])
    for label, ours, theirs in _facts(kept, fresh):
        grid.rows.append([label, ours, theirs])
    return grid.shown()


def _facts(kept: Record, fresh: Record) -> list[tuple[str, object, object]]:
    def both(label: str, fact) -> tuple[str, object, object]:
        return label, fact(kept), fact(fresh)

    return [
        both("date", lambda r: r.started[:10]),
        both("data", _data_words),
        both("seeds", lambda r: seed_list(r.seeds) or "–"),
        both("hardware", lambda r: r.provenance.gpu or r.provenance.cpu),
        both("wall time", lambda r: duration(r.wall_seconds)),
        both("training time", lambda r: duration(r.training_seconds)),
        both("revision", lambda r: _revision(r.provenance)),
        both("run id", lambda r: r.run_id),
    ]


def _data_words(record: Record) -> str:
    names = sorted({f"{d.name} ({d.source})" for d in record.data})
    return ", ".join(names) or "–"


def _revision(machine: Provenance) -> Text:
    if machine.revision is None:
        return text("no git")
    dirty = "" if machine.clean else ", with changes not committed"
    return text(f"revision {machine.revision[:10]}{dirty}")


def duration(seconds: float) -> str:
    """Seconds in the unit a reader thinks in: 0.4 s, 45 s, 12 min, 3.5 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
