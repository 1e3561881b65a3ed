"""Where shown numbers come from: this run, or a larger one that was recorded."""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from compactnets import profiles
from compactnets.study import record
from compactnets.study.display import Text, text
from compactnets.study.observations import Observations
from compactnets.study.record import Answer


@dataclass(frozen=True)
class Source:
    """Observations and answers of one run, and the words that name it."""

    observed: Observations
    answers: dict[str, Answer]
    words: str

    def origin(self, seeded: bool = True) -> Text:
        """The line under a table; seeded: whether its numbers are means over seeds."""
        what = "Mean ± half-width of the 95 % t interval over seeds; " if seeded else ""
        return text(f"{what}{self.words}.")


@dataclass(frozen=True)
class Series:
    """Observations to draw as a tidy frame, and the words that name their run."""

    frame: pd.DataFrame
    origin: str


def words(word: str, run_id: str, profile: str, data: Iterable[str]) -> str:
    """Names a run; word is "obtained" for this one or "recorded" for a committed one."""
    used = ", ".join(sorted(set(data))) or "no data set"
    return f"{word} by run {run_id}, profile {profile}, {used}"


def larger_recorded(slug: str, profile: str) -> Source | None:
    """The recorded run of the largest profile, if that is larger than this run's."""
    run = record.largest(slug)
    sizes = profiles.PROFILES
    if run is None or sizes.index(run.profile) <= sizes.index(profiles.check(profile)):
        return None
    observed = Observations()
    for row in run.observations:
        observed.add(row)
    name = words("recorded", run.run_id, run.profile, (d.name for d in run.data))
    return Source(observed, {a.claim: a for a in run.answers}, name)
