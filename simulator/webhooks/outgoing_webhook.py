"""A webhook under way, with the record of every attempt to deliver it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simulator.ids import iso

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from simulator.world.webhook_payloads import Announcement

WITHHELD = "withheld"
WAITING = "waiting"
LOST = "lost"
DELIVERED = "delivered"
RETRYING = "retrying"
GIVEN_UP = "given up"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryAttempt:
    """One POST: when, signed as of when, and how it ended. A problem of None is success."""

    began_at: datetime
    ended_at: datetime
    signed_at: str
    status: int | None
    problem: str | None

    def view(self) -> dict[str, Any]:
        """The attempt as JSON."""
        return {
            "began": iso(self.began_at),
            "ended": iso(self.ended_at),
            "signedAt": self.signed_at,
            "status": self.status,
            "problem": self.problem,
        }


@dataclass(slots=True, kw_only=True)
class OutgoingWebhook:
    """An announcement on its way; headers replace those it would bear, None leaves one out."""

    announcement: Announcement
    created_at: datetime
    state: str = WAITING
    headers: Mapping[str, str | None] = field(default_factory=dict)
    retried: bool = True
    signed_at: str | None = None
    attempts: list[DeliveryAttempt] = field(default_factory=list)

    def view(self) -> dict[str, Any]:
        """The parcel as JSON."""
        return {
            "eventId": self.announcement.event_id,
            "eventType": self.announcement.event_type,
            "connectionId": self.announcement.connection_id,
            "created": iso(self.created_at),
            "state": self.state,
            "body": self.announcement.body.decode(errors="replace"),
            "attempts": [attempt.view() for attempt in list(self.attempts)],
        }
