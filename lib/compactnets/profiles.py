"""How large a run is: smoke, quick, standard or full."""

import os
from typing import Literal, TypeVar, get_args

ProfileName = Literal["smoke", "quick", "standard", "full"]
PROFILES: tuple[ProfileName, ...] = get_args(ProfileName)  # from the smallest to the largest

# Seconds a notebook may take on two CPU cores; full is meant for a GPU and has no bound here.
BUDGET_SECONDS: dict[str, float] = {"smoke": 15, "quick": 60, "standard": 3600}

# Seeds per row of a table, unless a notebook says otherwise.
SEEDS: dict[str, int] = {"smoke": 1, "quick": 2, "standard": 3, "full": 5}

T = TypeVar("T")


def check(profile: str) -> ProfileName:
    """The profile itself; ValueError that lists the known ones if it is none of them."""
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}: choose one of {', '.join(PROFILES)}")
    return profile  # type: ignore[return-value]


def current(default: str = "quick") -> ProfileName:
    """$COMPACTNETS_PROFILE if set, else the default: how a notebook run as a script is sized."""
    return check(os.environ.get("COMPACTNETS_PROFILE", default))


def resolve(profile: str | None, *, notebook: bool) -> ProfileName:
    """The profile of this run.

    In a notebook the parameters cell decides (papermill writes its own after it). A script made
    from the notebook holds that cell's default too, so there $COMPACTNETS_PROFILE goes first.
    """
    if profile is None or not notebook:
        return current(profile or "quick")
    return check(profile)


def pick(profile: str, *, smoke: T, quick: T, standard: T, full: T) -> T:
    """The value for one profile, all four in sight: pick(profile, smoke=1, quick=3, ...)."""
    return {"smoke": smoke, "quick": quick, "standard": standard, "full": full}[check(profile)]
