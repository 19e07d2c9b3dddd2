"""An outgoing webhook: its event, its delivery state and the record of every attempt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simulator.ids import format_time

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from simulator.world.webhook_payloads import WebhookEvent

WITHHELD = "withheld"
WAITING = "waiting"
LOST = "lost"
DELIVERED = "delivered"
RETRYING = "retrying"
GIVEN_UP = "given up"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookAttempt:
    """One HTTP request: its times, signature timestamp and result. A problem of None means success."""

    began_at: datetime
    ended_at: datetime
    signed_at: str
    status: int | None
    problem: str | None

    def view(self) -> dict[str, Any]:
        """Return the attempt as JSON."""
        return {
            "began": format_time(self.began_at),
            "ended": format_time(self.ended_at),
            "signedAt": self.signed_at,
            "status": self.status,
            "problem": self.problem,
        }


@dataclass(slots=True, kw_only=True)
class OutgoingWebhook:
    """A webhook event to deliver; headers replace the usual ones, None omits one."""

    event: WebhookEvent
    created_at: datetime
    state: str = WAITING
    headers: Mapping[str, str | None] = field(default_factory=dict)
    retried: bool = True
    signed_at: str | None = None
    attempts: list[WebhookAttempt] = field(default_factory=list)

    def view(self) -> dict[str, Any]:
        """Return the webhook as JSON."""
        return {
            "eventId": self.event.event_id,
            "eventType": self.event.event_type,
            "connectionId": self.event.connection_id,
            "created": format_time(self.created_at),
            "state": self.state,
            "body": self.event.body.decode(errors="replace"),
            "attempts": [attempt.view() for attempt in list(self.attempts)],
        }
