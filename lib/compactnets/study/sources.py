"""Where shown numbers come from: this run, or a larger one that was recorded."""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from compactnets import profiles
from compactnets.study import record
from compactnets.study.display import Text, text
from compactnets.study.observations import Observations


@dataclass(frozen=True)
class Source:
    """Observations of one run, and the line under a table that says which run."""

    observed: Observations
    origin: Text


@dataclass(frozen=True)
class Shown:
    """Observations to draw as a tidy frame, and which run they are from."""

    frame: pd.DataFrame
    origin: str


def origin(word: str, run_id: str, profile: str, data: Iterable[str]) -> Text:
    """The line under a table; word is "Obtained" for this run or "Recorded" for a committed one."""
    used = ", ".join(sorted(set(data))) or "no data set"
    return text(
        f"{word}: mean ± half-width of the 95 % t interval over seeds; "
        f"run {run_id}, profile {profile}, {used}."
    )


def larger_recorded(slug: str, profile: str) -> Source | None:
    """The recorded run of the largest profile, if that is larger than this run's."""
    run = record.largest(slug)
    sizes = profiles.PROFILES
    if run is None or sizes.index(run.profile) <= sizes.index(profiles.check(profile)):
        return None
    observed = Observations()
    for row in run.observations:
        observed.add(row)
    return Source(observed, origin("Recorded", run.run_id, run.profile, (d.name for d in run.data)))
