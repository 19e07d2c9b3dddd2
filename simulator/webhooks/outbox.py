"""Outbox of webhooks: holds them back on request or hands them to delivery, and records all of them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Protocol

from simulator.errors import AbsentError
from simulator.thread_lock import synchronized
from simulator.webhooks.outgoing_webhook import WAITING, WITHHELD, OutgoingWebhook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from simulator.world.webhook_payloads import WebhookEvent

#: Bounds the memory during days of random activity; a test looks at far fewer.
MAX_RECORDED_WEBHOOKS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WithholdFilter:
    """Selects the webhooks to hold back; without types or connections, all of them."""

    types: frozenset[str] = frozenset()
    connection_ids: frozenset[str] = frozenset()

    def matches(self, event: WebhookEvent) -> bool:
        """Return whether this event is to be held back."""
        of_type = not self.types or event.event_type in self.types
        return of_type and (not self.connection_ids or event.connection_id in self.connection_ids)


class WebhookDelivery(Protocol):
    """Delivers webhooks."""

    def deliver(self, webhooks: Sequence[OutgoingWebhook]) -> None:
        """Deliver webhooks concurrently, with the faults in effect."""

    def deliver_in_order(self, webhooks: Sequence[OutgoingWebhook]) -> None:
        """Deliver webhooks one after the other, without faults."""


class WebhookOutbox:
    """Accepts webhook events from any thread and passes them on in order of arrival, or of release."""

    def __init__(self, *, clock: Callable[[], datetime], delivery: WebhookDelivery) -> None:
        self.lock = RLock()
        self._clock = clock
        self._delivery = delivery
        self.clear()

    @synchronized
    def clear(self) -> None:
        """Delete all records and stop withholding."""
        self._webhooks: deque[OutgoingWebhook] = deque(maxlen=MAX_RECORDED_WEBHOOKS)
        self._filter: WithholdFilter | None = None

    @synchronized
    def enqueue(self, events: Iterable[WebhookEvent]) -> list[OutgoingWebhook]:
        """Send the events at once, except those that the filter holds back."""
        webhooks = [OutgoingWebhook(event=one, created_at=self._clock()) for one in events]
        for webhook in webhooks:
            if self._filter and self._filter.matches(webhook.event):
                webhook.state = WITHHELD
        self._webhooks.extend(webhooks)
        self._delivery.deliver([webhook for webhook in webhooks if webhook.state != WITHHELD])
        return webhooks

    @synchronized
    def send_custom(self, event: WebhookEvent, headers: Mapping[str, str | None], *, retried: bool) -> OutgoingWebhook:
        """Send one event at once, regardless of the filter and of faults, with the caller's headers."""
        webhook = OutgoingWebhook(event=event, created_at=self._clock(), headers=headers, retried=retried)
        self._webhooks.append(webhook)
        self._delivery.deliver_in_order([webhook])
        return webhook

    @synchronized
    def withhold(self, withhold_filter: WithholdFilter) -> None:
        """Hold back the webhooks that match this filter from now on; it replaces the former filter."""
        self._filter = withhold_filter

    @synchronized
    def release_all(self) -> list[OutgoingWebhook]:
        """Stop withholding; send the webhooks held back, oldest first."""
        self._filter = None
        return self._release([webhook for webhook in self._webhooks if webhook.state == WITHHELD])

    @synchronized
    def release(self, event_ids: Sequence[str]) -> list[OutgoingWebhook]:
        """Send these in this order, each after the first attempt of the one before; the filter stays.

        Raises:
            AbsentError: One of them is not held back.
        """
        held = {webhook.event.event_id: webhook for webhook in self._webhooks if webhook.state == WITHHELD}
        unknown = [event_id for event_id in event_ids if event_id not in held]
        if unknown:
            raise AbsentError(f"not withheld: {', '.join(unknown)}")
        return self._release([held[event_id] for event_id in event_ids])

    @synchronized
    def resend(self, event_id: str) -> OutgoingWebhook:
        """Send the same bytes with the same eventId again.

        Raises:
            AbsentError: There is no such webhook.
        """
        found = [one.event for one in self._webhooks if one.event.event_id == event_id]
        if not found:
            raise AbsentError(f"there is no webhook {event_id}")
        return self.send_custom(found[0], {}, retried=True)

    @synchronized
    def webhooks(self) -> list[OutgoingWebhook]:
        """Return the recorded webhooks, oldest first."""
        return list(self._webhooks)

    def _release(self, webhooks: list[OutgoingWebhook]) -> list[OutgoingWebhook]:
        for webhook in webhooks:
            webhook.state = WAITING
        self._delivery.deliver_in_order(webhooks)
        return webhooks
