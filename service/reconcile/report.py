"""Report: what a reconcile came to, as its row counts it and as an operator reads it."""

from collections.abc import Collection
from dataclasses import dataclass, field

from schemas.tables import ReconcileRunRow
from service.reconcile.drift import KINDS, MOST_EXAMPLES, Kind


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """What a reconcile came to."""

    pages: int
    listed: int
    unreadable: int
    drift: dict[Kind, int]
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """Whether the mirror was as Meld says."""
        return not any(self.drift.values())


def report_of(sweep: ReconcileRunRow) -> ReconcileReport:
    """Return what a reconcile came to, or has come to so far."""
    return ReconcileReport(
        pages=sweep.pages,
        listed=sweep.listed,
        unreadable=sweep.unreadable,
        drift={kind: getattr(sweep, kind) for kind in KINDS},
        examples=sweep.examples,
    )


def count(sweep: ReconcileRunRow, kind: Kind, ids: Collection[str]) -> None:
    """Add connections to one kind of drift, and keep a few as examples."""
    if not ids:
        return
    setattr(sweep, kind, getattr(sweep, kind) + len(ids))
    known = sweep.examples.get(kind, [])
    sweep.examples = {**sweep.examples, kind: [*known, *ids][:MOST_EXAMPLES]}
