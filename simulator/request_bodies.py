"""The JSON bodies that the simulator understands, Meld's and its own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from simulator.errors import MalformedError
from simulator.faults.read_script import ScriptedRead
from simulator.world.vocabulary import HEALTHY, LOGIN_REQUIRED, MeldState

if TYPE_CHECKING:
    from starlette.requests import Request

W = TypeVar("W", bound=BaseModel)
Text = Annotated[str, Field(min_length=1)]


class MeldWish(BaseModel):
    """A body that Meld documents; fields that are not simulated are let pass."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, extra="ignore")


class RefreshWish(MeldWish):
    """Refresh these products, or all."""

    products: tuple[str, ...] = ()


class StartWish(MeldWish):
    """Open the widget for a customer."""

    external_customer_id: Text
    institution_id: Text | None = None
    products: tuple[str, ...] = ("BALANCES", "TRANSACTIONS")
    optional_products: tuple[str, ...] = ()
    regions: tuple[str, ...] = ("US",)


class RepairWish(MeldWish):
    """Open the widget to reconnect a connection."""

    connection_id: Text


class Wish(BaseModel):
    """A body of the simulator's own; a field it does not know is a mistake."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, extra="forbid")


class CreateWish(Wish):
    """So many connections, or so many groups of that size; silent unless they are to be announced."""

    count: Annotated[int, Field(ge=1, le=100_000)] = 1
    group: Annotated[int, Field(ge=1, le=100)] = 1
    id: Text | None = None
    status: Text = HEALTHY.status
    reason: Text | None = None
    external_customer_id: Text | None = None
    institution_id: Text | None = None
    products: tuple[str, ...] = ("BALANCES", "TRANSACTIONS")
    optional_products: tuple[str, ...] = ("OWNERS",)
    regions: tuple[str, ...] = ("US",)
    created_at: AwareDatetime | None = None
    announce: bool = False


class ActWish(Wish):
    """An act that needs to be told nothing; announce false keeps its webhooks from ever being made."""

    announce: bool = True


class StateWish(ActWish):
    """Put the connection into this state."""

    status: Text
    reason: Text | None = None


class BreakWish(ActWish):
    """Break the connection, like this or with a login that is required."""

    status: Text = LOGIN_REQUIRED.status
    reason: Text | None = None

    def state(self) -> MeldState:
        """The state to break into."""
        return MeldState(self.status, self.reason) if "status" in self.model_fields_set else LOGIN_REQUIRED


class CompleteWish(ActWish):
    """Finish the widget, with the login of another connection of the same customer if there is one named."""

    duplicate_of: Text | None = None


class JoinWish(ActWish):
    """Join the group of another connection."""

    other: Annotated[str, Field(min_length=1, alias="with")]


class RefreshActWish(ActWish):
    """Refresh these products, or all."""

    products: tuple[str, ...] = ()


class WebhookWish(Wish):
    """Send a webhook although nothing has happened; with a body, send that instead, as it stands."""

    event_type: Text = "WEBHOOK_TEST"
    connection_id: Text | None = None
    payload: dict[str, Any] = {}
    event_id: Text | None = None
    body: Any = None
    headers: dict[str, str | None] = {}
    retry: bool = True


class WithholdWish(Wish):
    """Hold back webhooks of these types and connections; none named means all."""

    types: frozenset[str] = frozenset()
    connection_ids: frozenset[str] = frozenset()


class ReleaseWish(Wish):
    """Send these in this order; none named means all, and an end of withholding."""

    event_ids: tuple[str, ...] | None = None


class ScriptWish(Wish):
    """What is to be done to the next reads of a connection; of the list, where none is named."""

    connection_id: Text | None = None
    steps: tuple[ScriptedRead, ...]


class LifeWish(Wish):
    """So many acts a second."""

    rate: Annotated[float, Field(ge=0, le=10_000)]


class ResetWish(Wish):
    """Begin anew with so many connections."""

    connections: Annotated[int, Field(ge=0, le=1_000_000)] = 0


async def read_wish(request: Request, kind: type[W]) -> W:
    """The request's body as that wish, or MalformedError; no body is an empty object."""
    raw = await request.body()
    try:
        return kind.model_validate(json.loads(raw or b"{}"))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        raise MalformedError(f"[{place}] {first['msg']}") from error
    except ValueError as error:
        raise MalformedError("the body is not JSON") from error


async def read_object(request: Request) -> dict[str, Any]:
    """The request's body as a JSON object of any content."""
    return (await read_wish(request, AnyWish)).model_extra or {}


class AnyWish(BaseModel):
    """Any JSON object."""

    model_config = ConfigDict(extra="allow")
