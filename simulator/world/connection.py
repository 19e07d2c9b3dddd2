"""A bank connection of the simulated account, and its JSON representation in Meld's API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from simulator.ids import format_time
from simulator.world.vocabulary import TERMINAL, MeldState

if TYPE_CHECKING:
    from datetime import datetime

    from simulator.world.institutions import Institution
    from simulator.world.quirks import Quirks


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedConnection:
    """One immutable version of a bank connection; each change creates another version."""

    id: str
    number: int
    customer_id: str
    external_customer_id: str
    institution: Institution | None
    state: MeldState
    created_at: datetime
    products: tuple[str, ...]
    optional_products: tuple[str, ...]
    regions: tuple[str, ...]
    item_id: str
    access_token: str
    #: Raised by every connect, refresh and aggregation: the member with the highest rank is the group's primary.
    rank: int = 0
    aggregated_at: datetime | None = None
    group: int | None = None
    primary_id: str | None = None
    duplicate_ids: tuple[str, ...] = ()

    @property
    def is_alive(self) -> bool:
        """Whether the state can still change: neither DELETED nor EXPIRED."""
        return self.state.status not in TERMINAL

    @property
    def provider(self) -> str | None:
        """The service provider; None until the customer has chosen an institution."""
        return self.institution.provider if self.institution else None


def to_meld_json(connection: SimulatedConnection, account_id: str, quirks: Quirks) -> dict[str, Any]:
    """Return the connection as Meld's API represents it."""
    institution = connection.institution
    return {
        "id": connection.id,
        "accountId": account_id,
        "customerId": connection.customer_id,
        "externalCustomerId": connection.external_customer_id,
        "institutionId": institution.id if institution else None,
        "institutionName": institution.name if institution else None,
        "status": connection.state.status,
        "statusReason": connection.state.reason,
        "duplicateConnectionIds": _duplicates(connection, quirks),
        "activeDuplicateConnectionId": connection.primary_id,
        "regions": list(connection.regions),
        "products": list(connection.products),
        "optionalProducts": list(connection.optional_products),
        "serviceProviderDetails": _details(connection, quirks),
        "createdAt": format_time(connection.created_at),
        "successfullyAggregatedAt": format_time(connection.aggregated_at) if connection.aggregated_at else None,
    }


def _duplicates(connection: SimulatedConnection, quirks: Quirks) -> list[str] | None:
    if not connection.duplicate_ids:
        return [] if quirks.empty_list else None
    own = [connection.id] if quirks.self_listed else []
    return own + list(connection.duplicate_ids)


def _details(connection: SimulatedConnection, quirks: Quirks) -> dict[str, Any]:
    if connection.institution is None:
        return {}
    details = {
        "serviceProvider": connection.institution.provider,
        "itemId": connection.item_id,
        "institutionId": f"ins_{connection.institution.id[:6]}",
        "linkProducts": [product.lower() for product in connection.products],
    }
    return details | ({"accessToken": connection.access_token} if quirks.credentials else {})
