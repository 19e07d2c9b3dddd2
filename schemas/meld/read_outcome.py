"""Outcomes of a read of Meld, as values: found, absent, throttled, unavailable, refused, unreadable."""

from dataclasses import dataclass

from schemas.meld.connection import Snapshot


@dataclass(frozen=True, slots=True)
class Found:
    """Meld answered with the connection."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Absent:
    """Meld answered 404: deleted, or the wrong environment."""


@dataclass(frozen=True, slots=True)
class Throttled:
    """Meld answered 429. ``retry_after`` is in seconds, None where Meld named no time."""

    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Meld could not be reached, took too long, or answered with an error of its own (5xx and the unforeseen)."""

    detail: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """Meld answered 401 or 403; both mean credentials."""

    detail: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Meld answered 200 with something that is not the connection that was asked for. ``evidence`` is its beginning."""

    detail: str
    evidence: str = ""


ReadOutcome = Found | Absent | Throttled | Unavailable | Refused | Unreadable
"""What a read of one connection came to; each has its own policy in ``workers/refetch/retry_policy.py``."""


@dataclass(frozen=True, slots=True)
class ListPage:
    """One page of Meld's list.

    Attributes:
        snapshots: The connections of the page that could be read.
        unreadable: How many items could not.
        after: The key to go on after; None on the last page.
    """

    snapshots: tuple[Snapshot, ...]
    unreadable: int
    after: str | None


PageOutcome = ListPage | Throttled | Unavailable | Refused | Unreadable
"""What a read of one page of the list came to."""
