"""Report of a reconcile: the drift by kind with examples, as its row counts it and as an operator reads it."""

from collections.abc import Collection
from dataclasses import dataclass, field

from schemas.tables import ReconcileRunRow
from service.reconcile.drift import KINDS, MAX_EXAMPLES, DriftKind


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """The result of a reconcile.

    Attributes:
        pages: Pages of Meld's list.
        listed: Connections on them.
        unreadable: Items that could not be parsed.
        drift: The number of connections that differed, by kind.
        examples: The ids of a few of them, by kind.
    """

    pages: int
    listed: int
    unreadable: int
    drift: dict[DriftKind, int]
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """Whether the mirror agreed with Meld."""
        return not any(self.drift.values())


def make_report(run: ReconcileRunRow) -> ReconcileReport:
    """Return the result of a reconcile, or its result so far."""
    return ReconcileReport(
        pages=run.pages,
        listed=run.listed,
        unreadable=run.unreadable,
        drift={kind: getattr(run, kind) for kind in KINDS},
        examples=run.examples,
    )


def add_drift(run: ReconcileRunRow, kind: DriftKind, ids: Collection[str]) -> None:
    """Count connections as drift of a kind, and keep a few as examples."""
    if not ids:
        return
    setattr(run, kind, getattr(run, kind) + len(ids))
    examples = run.examples.get(kind, [])
    run.examples = {**run.examples, kind: [*examples, *ids][:MAX_EXAMPLES]}
