"""A notebook's session: card, claims, tables, verdicts, record."""

from compactnets.study.card import Card, CardError
from compactnets.study.record import Record, RecordError
from compactnets.study.session import Study
from compactnets.study.verdicts import ClaimError, ClaimFailed, Comparison, UnansweredClaims

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
