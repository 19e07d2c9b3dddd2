"""Webhook payloads: which events Meld sends for a change, and their JSON, serialised once.

WEBHOOK_TEST and BANK_LINKING_CONNECTION_COMPLETED follow samples that Meld has published. The payloads of the other
events contain the fields that its documentation names.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simulator.ids import format_time
from simulator.world import vocabulary
from simulator.world.vocabulary import DELETED, EXPIRED, INACTIVE_DUPLICATE, STATUS_EVENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from simulator.ids import IdGenerator
    from simulator.world.connection import SimulatedConnection
    from simulator.world.quirks import Quirks

EVENT_VERSION = "2023-12-19"
ACCOUNT_EVENTS = frozenset({vocabulary.UPDATING_EVENT, vocabulary.UPDATED_EVENT})
TRANSACTION_EVENTS = frozenset({vocabulary.TRANSACTIONS_EVENT, vocabulary.HISTORY_EVENT})


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookEvent:
    """One webhook event; every attempt sends the same bytes."""

    event_id: str
    event_type: str
    connection_id: str | None
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The result of an action: all affected connections before and after, and the events to send with it."""

    connection_id: str
    before: Sequence[SimulatedConnection]
    after: Sequence[SimulatedConnection]
    #: Event types sent before and after the STATUS_CHANGE events.
    first_events: Sequence[str] = ()
    last_events: Sequence[str] = ()


class PayloadComposer:
    """Composes the webhook events of one Meld account."""

    def __init__(self, *, ids: IdGenerator, clock: Callable[[], datetime]) -> None:
        self._ids = ids
        self._clock = clock
        self.account_id = ids.new_id()
        self.profile_id = ids.new_id()

    def compose_all(self, change: Change, quirks: Quirks) -> list[WebhookEvent]:
        """Compose all events of a change: those about the connection itself first, then those about its siblings."""
        new = {connection.id: connection for connection in change.after}
        own = new[change.connection_id]
        moved = [(old, new[old.id]) for old in change.before if _is_announced(old, new[old.id], quirks)]
        moved.sort(key=lambda pair: pair[0].id != own.id)
        return [
            *(self.compose(event, own) for event in change.first_events),
            *(self.compose(STATUS_EVENT, now, old=old) for old, now in moved),
            *(self.compose(event, own) for event in change.last_events),
        ]

    def compose(
        self,
        event_type: str,
        connection: SimulatedConnection | None,
        *,
        old: SimulatedConnection | None = None,
        overrides: Mapping[str, Any] | None = None,
        event_id: str | None = None,
    ) -> WebhookEvent:
        """Compose one event of any type; overrides replace or add fields of the payload."""
        payload = {"requestId": self._ids.new_id()}
        if connection is not None and event_type not in vocabulary.TEST_EVENTS:
            payload |= _payload(event_type, connection, old or connection)
        event_id = event_id or self._ids.new_id()
        event = {
            "eventType": event_type,
            "eventId": event_id,
            "timestamp": format_time(self._clock()),
            "accountId": self.account_id,
            "profileId": self.profile_id,
            "version": EVENT_VERSION,
            "payload": payload | dict(overrides or {}),
        }
        return WebhookEvent(
            event_id=event_id,
            event_type=event_type,
            connection_id=connection.id if connection else None,
            body=compact_json(event),
        )


def compact_json(value: object) -> bytes:
    """Serialise as JSON without white space, as Meld does."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def aggregation_events(connection: SimulatedConnection) -> Iterable[str]:
    """Yield the data events of an aggregation; the first aggregation includes the history."""
    yield from (vocabulary.UPDATING_EVENT, vocabulary.UPDATED_EVENT, vocabulary.TRANSACTIONS_EVENT)
    if connection.aggregated_at is None:
        yield vocabulary.HISTORY_EVENT


def _is_announced(old: SimulatedConnection, new: SimulatedConnection, quirks: Quirks) -> bool:
    if new.state == old.state:
        regrouped = (new.primary_id, new.duplicate_ids) != (old.primary_id, old.duplicate_ids)
        return regrouped and quirks.third_announced
    if new.state.status == DELETED.status:
        return quirks.deletion_changes_status
    if new.state.status == EXPIRED.status:
        return quirks.expiry_announced
    promoted = old.state == INACTIVE_DUPLICATE
    return not (promoted and quirks.promotion_silent)


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
    return common | _fields_of_type(event_type, connection, old) | {"serviceProviderDetails": provider}


def _fields_of_type(event_type: str, connection: SimulatedConnection, old: SimulatedConnection) -> dict[str, Any]:
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
        return {"financialAccounts": [{"id": _account_id(connection)} | account | {"products": ["BALANCES"]}]}
    if event_type in TRANSACTION_EVENTS:
        numbers = {"numTransactionsAdded": 3, "numTransactionsUpdated": 1, "transactionIdsRemoved": []}
        return {"financialAccounts": [{"id": _account_id(connection)} | numbers]}
    return {}


def _account_id(connection: SimulatedConnection) -> str:
    # The connections of a group share their accounts, so the id derives from the provider's item.
    return f"FA{connection.item_id[2:]}"
