"""Outcomes of a read of Meld, as values: found, absent, throttled, unavailable, refused, unreadable."""

from dataclasses import dataclass

from schemas.meld.connection import Snapshot


@dataclass(frozen=True, slots=True)
class Found:
    """Meld answered with the connection."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Absent:
    """Meld answered 404 or 410: deleted, or the wrong environment."""


@dataclass(frozen=True, slots=True)
class Throttled:
    """Meld answered 429. ``retry_after`` is in seconds, None if Meld gave no time."""

    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Meld could not be reached, timed out, or answered with an unexpected status (such as 5xx)."""

    detail: str
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """Meld answered 401 or 403: it refuses our credentials."""

    detail: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Meld answered 200 with something else than the requested connection. ``evidence`` is its beginning."""

    detail: str
    evidence: str = ""


ReadOutcome = Found | Absent | Throttled | Unavailable | Refused | Unreadable
"""The outcome of a read of one connection; ``workers/refetch/retry_policy.py`` has a policy for each."""


@dataclass(frozen=True, slots=True)
class ListPage:
    """A page of Meld's list.

    Attributes:
        snapshots: The readable connections of the page.
        unreadable: The number of unreadable items.
        after: The key of the next page; None on the last page.
    """

    snapshots: tuple[Snapshot, ...]
    unreadable: int
    after: str | None


PageOutcome = ListPage | Throttled | Unavailable | Refused | Unreadable
"""The outcome of a read of one page of the list."""
