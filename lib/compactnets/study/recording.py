"""From a finished run to a recorded one: data/results/<slug>/<profile>.json."""

from datetime import datetime
from pathlib import Path

from compactnets import paths, profiles
from compactnets.study import card as cards
from compactnets.study import record as records
from compactnets.study.record import Record, RecordError


def candidates(slug: str, profile: str) -> list[Path]:
    """Records that runs have left under _build, the one written last first."""
    build = paths.build_dir()
    found = [build / "records" / slug / f"{profile}.json"]
    found += (build / "runs" / slug / profile).glob("*/record.json")
    found = [path for path in found if path.is_file()]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def promote(
    slug: str, profile: str, source: Path | str | None = None, *, allow_dirty: bool = False
) -> str:
    """Copies a finished record to data/results and says in a sentence what was done.

    source: the record's file; default the newest under _build. RecordError, and nothing is
    changed, if there is none, it does not fit the schema or the card, it ran on changed code
    (unless allow_dirty), a newer one is recorded already, or the profile is smoke, which tests
    that cells run and proves nothing about a paper.
    """
    card = cards.load(slug)
    if profiles.check(profile) == "smoke":
        raise RecordError("a smoke run is a test, not a result: record quick, standard or full")
    new = records.read(_source(slug, profile, source))
    _fits(new, card, profile)
    if not new.provenance.clean and not allow_dirty:
        state = "changes not committed" if new.provenance.revision else "no git revision"
        raise RecordError(
            f"run {new.run_id} of {slug} had {state}: commit, run again, then record "
            "(or allow it by --allow-dirty; the record will say so)"
        )
    return _place(new, paths.results_dir() / slug / f"{profile}.json")


def _source(slug: str, profile: str, source: Path | str | None) -> Path:
    if source is not None:
        return Path(source)
    found = candidates(slug, profile)
    if not found:
        raise RecordError(
            f"no finished run of {slug} at profile {profile} under {paths.build_dir()}: "
            f"`compactnets run {slug} --profile {profile}` makes one"
        )
    return found[0]


def _fits(new: Record, card: cards.Card, profile: str) -> None:
    """RecordError unless the record answers exactly this card's claims at this profile."""
    if (new.slug, new.profile) != (card.slug, profile):
        raise RecordError(
            f"the record is of {new.slug} at profile {new.profile}, not of {card.slug} at {profile}"
        )
    answered = {one.claim: one for one in new.answers}
    changed = sorted(
        name
        for name in answered.keys() | card.claims.keys()
        if name not in answered
        or name not in card.claims
        or answered[name].statement != card.claims[name].statement
        or answered[name].kind != card.claims[name].kind
        or answered[name].margin not in (None, card.claims[name].margin)
    )
    if changed:
        raise RecordError(
            f"the card of {card.slug} has other claims than run {new.run_id} answered "
            f"({', '.join(changed)}): run the notebook again"
        )


def _place(new: Record, target: Path) -> str:
    where = f"{target.parent.name}/{target.name}"
    done = f"recorded run {new.run_id} as data/results/{where}"
    if target.exists():
        old = records.read(target)
        if old.run_id == new.run_id:
            return f"run {new.run_id} is recorded already in data/results/{where}"
        if datetime.fromisoformat(old.started) > datetime.fromisoformat(new.started):
            raise RecordError(
                f"{target} holds a newer run ({old.run_id} of {old.started}, this one is of "
                f"{new.started}): remove it first if the older one is meant"
            )
        done += f", in place of {old.run_id} of {old.started[:10]}"
    records.write(new, target)
    if not new.provenance.clean:
        done += "; it says that it ran on code that was not committed"
    if any(used.source == "embedded" for used in new.data):
        done += "; it ran on the embedded data, not on real images"
    return done
