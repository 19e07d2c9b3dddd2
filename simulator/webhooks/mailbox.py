"""Where announcements become webhooks: withheld, or handed to the post, and kept on record."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Protocol

from simulator.errors import AbsentError
from simulator.thread_lock import exclusive
from simulator.webhooks.outgoing_webhook import WAITING, WITHHELD, OutgoingWebhook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from simulator.world.webhook_payloads import Announcement

#: A random life of days must not fill the memory; a test looks at far fewer.
PARCELS_KEPT = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Withholding:
    """Which webhooks are held back; no types and no connections mean all."""

    types: frozenset[str] = frozenset()
    connection_ids: frozenset[str] = frozenset()

    def covers(self, announcement: Announcement) -> bool:
        """Whether it holds this one back."""
        of_type = not self.types or announcement.event_type in self.types
        return of_type and (not self.connection_ids or announcement.connection_id in self.connection_ids)


class Carrier(Protocol):
    """Whoever delivers."""

    def send(self, parcels: Sequence[OutgoingWebhook]) -> None:
        """Deliver them all at once, with whatever goes wrong on the way."""

    def send_in_turn(self, parcels: Sequence[OutgoingWebhook]) -> None:
        """Deliver them one after the other, as they are."""


class Mailbox:
    """Takes announcements from any thread; the post gets them in the order they came, or were released."""

    def __init__(self, *, clock: Callable[[], datetime], carrier: Carrier) -> None:
        self.lock = RLock()
        self._clock = clock
        self._carrier = carrier
        self.clear()

    @exclusive
    def clear(self) -> None:
        """Forget everything, withhold nothing."""
        self._parcels: deque[OutgoingWebhook] = deque(maxlen=PARCELS_KEPT)
        self._withholding: Withholding | None = None

    @exclusive
    def post(self, announcements: Iterable[Announcement]) -> list[OutgoingWebhook]:
        """Make them webhooks: sent at once, unless they are being withheld."""
        parcels = [OutgoingWebhook(announcement=one, created_at=self._clock()) for one in announcements]
        for parcel in parcels:
            if self._withholding and self._withholding.covers(parcel.announcement):
                parcel.state = WITHHELD
        self._parcels.extend(parcels)
        self._carrier.send([parcel for parcel in parcels if parcel.state != WITHHELD])
        return parcels

    @exclusive
    def post_as(
        self, announcement: Announcement, headers: Mapping[str, str | None], *, retried: bool
    ) -> OutgoingWebhook:
        """Send one at once, with headers of the caller's making."""
        parcel = OutgoingWebhook(announcement=announcement, created_at=self._clock(), headers=headers, retried=retried)
        self._parcels.append(parcel)
        self._carrier.send_in_turn([parcel])
        return parcel

    @exclusive
    def withhold(self, withholding: Withholding) -> None:
        """From now on hold back what this covers, and nothing else."""
        self._withholding = withholding

    @exclusive
    def release_all(self) -> list[OutgoingWebhook]:
        """Stop withholding; send what was held back, oldest first."""
        self._withholding = None
        return self._release([parcel for parcel in self._parcels if parcel.state == WITHHELD])

    @exclusive
    def release(self, event_ids: Sequence[str]) -> list[OutgoingWebhook]:
        """Send these in this order, each after the other's first attempt; go on withholding."""
        held = {parcel.announcement.event_id: parcel for parcel in self._parcels if parcel.state == WITHHELD}
        strange = [event_id for event_id in event_ids if event_id not in held]
        if strange:
            raise AbsentError(f"not withheld: {', '.join(strange)}")
        return self._release([held[event_id] for event_id in event_ids])

    @exclusive
    def resend(self, event_id: str) -> OutgoingWebhook:
        """Send the same bytes under the same eventId once more."""
        found = [one.announcement for one in self._parcels if one.announcement.event_id == event_id]
        if not found:
            raise AbsentError(f"there is no webhook {event_id}")
        return self.post_as(found[0], {}, retried=True)

    @exclusive
    def parcels(self) -> list[OutgoingWebhook]:
        """Everything on record, oldest first."""
        return list(self._parcels)

    def _release(self, parcels: list[OutgoingWebhook]) -> list[OutgoingWebhook]:
        for parcel in parcels:
            parcel.state = WAITING
        self._carrier.send_in_turn(parcels)
        return parcels
