"""What Meld says of a change: the webhook events, composed and serialised once.

WEBHOOK_TEST and BANK_LINKING_CONNECTION_COMPLETED follow samples that Meld has published; the payloads of the other
events are constructed from the fields its documentation names.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simulator.ids import iso
from simulator.world import vocabulary
from simulator.world.vocabulary import DELETED, EXPIRED, INACTIVE, STATUS_EVENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from simulator.ids import Mint
    from simulator.world.connection import SimulatedConnection
    from simulator.world.quirks import Quirks

EVENT_VERSION = "2023-12-19"
ACCOUNT_EVENTS = frozenset({vocabulary.UPDATING_EVENT, vocabulary.UPDATED_EVENT})
TRANSACTION_EVENTS = frozenset({vocabulary.TRANSACTIONS_EVENT, vocabulary.HISTORY_EVENT})


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """One webhook event; the bytes stay the same however often it is sent."""

    event_id: str
    event_type: str
    connection_id: str | None
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What an act did: the connection it was about, all it touched before and after, and the events around it."""

    connection_id: str
    before: Sequence[SimulatedConnection]
    after: Sequence[SimulatedConnection]
    opening: Sequence[str] = ()
    closing: Sequence[str] = ()


class PayloadComposer:
    """Composes the announcements of one Meld account."""

    def __init__(self, *, mint: Mint, clock: Callable[[], datetime]) -> None:
        self._mint = mint
        self._clock = clock
        self.account_id = mint.id()
        self.profile_id = mint.id()

    def report(self, change: Change, habits: Quirks) -> list[Announcement]:
        """Everything Meld announces of a change: about the connection itself first, then about its siblings."""
        new = {connection.id: connection for connection in change.after}
        own = new[change.connection_id]
        moved = [(old, new[old.id]) for old in change.before if _announced(old, new[old.id], habits)]
        moved.sort(key=lambda pair: pair[0].id != own.id)
        return [
            *(self.compose(event, own) for event in change.opening),
            *(self.compose(STATUS_EVENT, now, old=old) for old, now in moved),
            *(self.compose(event, own) for event in change.closing),
        ]

    def compose(
        self,
        event_type: str,
        connection: SimulatedConnection | None,
        *,
        old: SimulatedConnection | None = None,
        overrides: Mapping[str, Any] | None = None,
        event_id: str | None = None,
    ) -> Announcement:
        """One event of any type; overrides replace or add fields of the payload."""
        payload = {"requestId": self._mint.id()}
        if connection is not None and event_type not in vocabulary.TEST_EVENTS:
            payload |= _payload(event_type, connection, old or connection)
        event_id = event_id or self._mint.id()
        event = {
            "eventType": event_type,
            "eventId": event_id,
            "timestamp": iso(self._clock()),
            "accountId": self.account_id,
            "profileId": self.profile_id,
            "version": EVENT_VERSION,
            "payload": payload | dict(overrides or {}),
        }
        return Announcement(
            event_id=event_id,
            event_type=event_type,
            connection_id=connection.id if connection else None,
            body=compact(event),
        )


def compact(value: object) -> bytes:
    """JSON without white space, as Meld sends it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def closing_events(connection: SimulatedConnection) -> Iterable[str]:
    """The data events that end an aggregation; the first one brings the history too."""
    yield from (vocabulary.UPDATING_EVENT, vocabulary.UPDATED_EVENT, vocabulary.TRANSACTIONS_EVENT)
    if connection.aggregated_at is None:
        yield vocabulary.HISTORY_EVENT


def _announced(old: SimulatedConnection, new: SimulatedConnection, habits: Quirks) -> bool:
    if new.state == old.state:
        regrouped = (new.primary_id, new.duplicate_ids) != (old.primary_id, old.duplicate_ids)
        return regrouped and habits.third_announced
    if new.state.status == DELETED.status:
        return habits.deletion_changes_status
    if new.state.status == EXPIRED.status:
        return habits.expiry_announced
    promoted = old.state == INACTIVE
    return not (promoted and habits.promotion_silent)


def _payload(event_type: str, connection: SimulatedConnection, old: SimulatedConnection) -> dict[str, Any]:
    institution = connection.institution
    common = {
        "customerId": connection.customer_id,
        "externalCustomerId": connection.external_customer_id,
        "connectionId": connection.id,
        "institutionId": institution.id if institution else None,
        "institutionName": institution.name if institution else None,
    }
    provider = {"serviceProvider": connection.provider, "serviceProviderConnectionId": connection.item_id}
    return common | _particulars(event_type, connection, old) | {"serviceProviderDetails": provider}


def _particulars(event_type: str, connection: SimulatedConnection, old: SimulatedConnection) -> dict[str, Any]:
    if event_type == STATUS_EVENT:
        return {
            "oldStatus": old.state.status,
            "oldStatusReason": old.state.reason,
            "newStatus": connection.state.status,
            "newStatusReason": connection.state.reason,
            "activeDuplicateConnectionId": connection.primary_id,
        }
    if event_type == vocabulary.ACTION_EVENT:
        return {"reason": connection.state.reason or "OTHER"}
    if event_type in ACCOUNT_EVENTS:
        account = {"name": "Checking", "truncatedAccountNumber": "0000", "newAccount": False}
        return {"financialAccounts": [{"id": _account(connection)} | account | {"products": ["BALANCES"]}]}
    if event_type in TRANSACTION_EVENTS:
        numbers = {"numTransactionsAdded": 3, "numTransactionsUpdated": 1, "transactionIdsRemoved": []}
        return {"financialAccounts": [{"id": _account(connection)} | numbers]}
    return {}


def _account(connection: SimulatedConnection) -> str:
    # Accounts are shared by the connections of a group, so their id comes from the provider's item.
    return f"FA{connection.item_id[2:]}"
