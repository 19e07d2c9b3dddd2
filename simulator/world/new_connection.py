"""How a connection comes into the world."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.errors import ImpossibleError, MalformedError
from simulator.world.connection import SimulatedConnection
from simulator.world.institutions import BANKS, Institution, bank
from simulator.world.vocabulary import INACTIVE, OPEN, PRODUCTS, MeldState

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from random import Random

    from simulator.ids import Mint
    from simulator.world.register import Register


@dataclass(frozen=True, slots=True, kw_only=True)
class NewConnection:
    """What may be said of a new connection; what is left out is made up."""

    id: str | None = None
    external_customer_id: str | None = None
    institution_id: str | None = None
    products: tuple[str, ...] = ("BALANCES", "TRANSACTIONS")
    optional_products: tuple[str, ...] = ("OWNERS",)
    regions: tuple[str, ...] = ("US",)
    created_at: datetime | None = None


#: Somebody made up, at a bank made up.
ANYBODY = NewConnection()


class Entrance:
    """Makes connections; it stores none."""

    def __init__(self, *, register: Register, mint: Mint, random: Random) -> None:
        self._register = register
        self._mint = mint
        self._random = random

    def admit(self, opening: NewConnection, state: MeldState, now: datetime) -> SimulatedConnection:
        """A new connection in that state; one past the widget has its institution and its first aggregation."""
        check_products((*opening.products, *opening.optional_products), PRODUCTS)
        if state == INACTIVE:
            raise ImpossibleError("a connection is an inactive duplicate only in a group: let it join one")
        number = len(self._register) + 1
        customer = opening.external_customer_id or f"customer-{number}"
        created_at = opening.created_at or now
        linked = state != OPEN
        return SimulatedConnection(
            id=self._free_id(opening.id),
            number=number,
            customer_id=self._register.customer(customer) or self._mint.id(),
            external_customer_id=customer,
            institution=self._institution(opening.institution_id, chosen=linked),
            state=state,
            created_at=created_at,
            aggregated_at=created_at if linked else None,
            products=opening.products,
            optional_products=opening.optional_products,
            regions=opening.regions,
            item_id=self._mint.id(),
            credential=self._mint.credential(),
            rank=self._register.next_rank(),
        )

    def choose(self) -> Institution:
        """The institution a customer picks in the widget."""
        return self._random.choice(BANKS)

    def _institution(self, institution_id: str | None, *, chosen: bool) -> Institution | None:
        if institution_id:
            return bank(institution_id)
        return self.choose() if chosen else None

    def _free_id(self, wanted: str | None) -> str:
        if wanted is not None and wanted in self._register:
            raise ImpossibleError(f"there is already a connection {wanted}")
        return wanted or self._mint.id()


def check_products(named: Iterable[str], known: Iterable[str]) -> None:
    """Nothing, or MalformedError where a product is named that is not among the known."""
    strange = sorted(set(named) - set(known))
    if strange:
        raise MalformedError(f"[products] not possible here: {', '.join(strange)}")
