"""A notebook's session: card, claims, tables, verdicts, record."""

from typing import TYPE_CHECKING, Any

from compactnets.study.card import Card, CardError
from compactnets.study.record import Record, RecordError
from compactnets.study.verdicts import ClaimError, ClaimFailed, Comparison, UnansweredClaims

if TYPE_CHECKING:
    from compactnets.study.session import Study

__all__ = [
    "Card",
    "CardError",
    "ClaimError",
    "ClaimFailed",
    "Comparison",
    "Record",
    "RecordError",
    "Study",
    "UnansweredClaims",
]


def __getattr__(name: str) -> Any:
    """Study on first use: it needs torch, which reading cards and records does not."""
    if name == "Study":
        from compactnets.study.session import Study

        return Study
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
