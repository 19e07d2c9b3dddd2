"""Creation of connections: the caller's details, and made-up values for the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.errors import ImpossibleError, MalformedError
from simulator.world.connection import SimulatedConnection
from simulator.world.institutions import INSTITUTIONS, Institution, get_institution
from simulator.world.vocabulary import IN_PROGRESS, INACTIVE_DUPLICATE, PRODUCTS, MeldState

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from random import Random

    from simulator.ids import IdGenerator
    from simulator.world.connection_store import ConnectionStore


@dataclass(frozen=True, slots=True, kw_only=True)
class NewConnection:
    """Details of a new connection; omitted ones are made up."""

    id: str | None = None
    external_customer_id: str | None = None
    institution_id: str | None = None
    products: tuple[str, ...] = ("BALANCES", "TRANSACTIONS")
    optional_products: tuple[str, ...] = ("OWNERS",)
    regions: tuple[str, ...] = ("US",)
    created_at: datetime | None = None


DEFAULT_DETAILS = NewConnection()


class ConnectionFactory:
    """Creates connections; the caller stores them."""

    def __init__(self, *, store: ConnectionStore, ids: IdGenerator, random: Random) -> None:
        self._store = store
        self._ids = ids
        self._random = random

    def create(self, details: NewConnection, state: MeldState, now: datetime) -> SimulatedConnection:
        """Create a connection; unless it is IN_PROGRESS, it has an institution and a first aggregation.

        Raises:
            ImpossibleError: The id is in use, or the state is INACTIVE_DUPLICATE, which only a group causes.
            MalformedError: A product is unknown.
        """
        validate_products((*details.products, *details.optional_products), PRODUCTS)
        if state == INACTIVE_DUPLICATE:
            raise ImpossibleError("a connection becomes an inactive duplicate only in a group: use the action join")
        number = len(self._store) + 1
        customer = details.external_customer_id or f"customer-{number}"
        created_at = details.created_at or now
        linked = state != IN_PROGRESS
        return SimulatedConnection(
            id=self._unused_id(details.id),
            number=number,
            customer_id=self._store.customer_id(customer) or self._ids.new_id(),
            external_customer_id=customer,
            institution=self._institution(details.institution_id, chosen=linked),
            state=state,
            created_at=created_at,
            aggregated_at=created_at if linked else None,
            products=details.products,
            optional_products=details.optional_products,
            regions=details.regions,
            item_id=self._ids.new_id(),
            access_token=self._ids.new_access_token(),
            rank=self._store.next_rank(),
        )

    def choose_institution(self) -> Institution:
        """Choose the institution as a customer does in the widget."""
        return self._random.choice(INSTITUTIONS)

    def _institution(self, institution_id: str | None, *, chosen: bool) -> Institution | None:
        if institution_id:
            return get_institution(institution_id)
        return self.choose_institution() if chosen else None

    def _unused_id(self, wanted: str | None) -> str:
        if wanted is not None and wanted in self._store:
            raise ImpossibleError(f"there is already a connection {wanted}")
        return wanted or self._ids.new_id()


def validate_products(named: Iterable[str], known: Iterable[str]) -> None:
    """Check that all named products are known.

    Raises:
        MalformedError: One is not.
    """
    unknown = sorted(set(named) - set(known))
    if unknown:
        raise MalformedError(f"[products] not available: {', '.join(unknown)}")
