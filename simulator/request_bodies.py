"""Request bodies of Meld's API and of the control API: models, parsing and validation."""

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

B = TypeVar("B", bound=BaseModel)
Text = Annotated[str, Field(min_length=1)]


class MeldRequest(BaseModel):
    """A request body that Meld documents; fields that are not simulated are ignored."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, extra="ignore")


class RefreshRequest(MeldRequest):
    """Refresh these products, or all of them."""

    products: tuple[str, ...] = ()


class StartConnectRequest(MeldRequest):
    """Open the widget for a customer."""

    external_customer_id: Text
    institution_id: Text | None = None
    products: tuple[str, ...] = ("BALANCES", "TRANSACTIONS")
    optional_products: tuple[str, ...] = ()
    regions: tuple[str, ...] = ("US",)


class RepairConnectRequest(MeldRequest):
    """Open the widget to reconnect a connection."""

    connection_id: Text


class ControlRequest(BaseModel):
    """A request body of the control API; unknown fields are rejected."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, extra="forbid")


class CreateConnectionsRequest(ControlRequest):
    """Create connections or groups; without webhooks unless announce is set."""

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


class ActionRequest(ControlRequest):
    """An action without parameters; with announce false it creates no webhooks."""

    announce: bool = True


class SetStateRequest(ActionRequest):
    """Put the connection into this state."""

    status: Text
    reason: Text | None = None


class BreakRequest(ActionRequest):
    """Break the connection, by default with RECONNECT_REQUIRED / LOGIN_REQUIRED."""

    status: Text = LOGIN_REQUIRED.status
    reason: Text | None = None

    def state(self) -> MeldState:
        """Return the broken state."""
        return MeldState(self.status, self.reason) if "status" in self.model_fields_set else LOGIN_REQUIRED


class CompleteRequest(ActionRequest):
    """Complete the widget, optionally with the login of another connection of the same customer."""

    duplicate_of: Text | None = None


class JoinGroupRequest(ActionRequest):
    """Join the group of another connection."""

    other: Annotated[str, Field(min_length=1, alias="with")]


class RefreshActionRequest(ActionRequest):
    """Refresh these products, or all of them."""

    products: tuple[str, ...] = ()


class SendWebhookRequest(ControlRequest):
    """Send a webhook without any change; a body, if given, is sent instead of an event."""

    event_type: Text = "WEBHOOK_TEST"
    connection_id: Text | None = None
    payload: dict[str, Any] = {}
    event_id: Text | None = None
    body: Any = None
    headers: dict[str, str | None] = {}
    retry: bool = True


class WithholdRequest(ControlRequest):
    """Hold back webhooks of these types and connections; without any, all webhooks."""

    types: frozenset[str] = frozenset()
    connection_ids: frozenset[str] = frozenset()


class ReleaseRequest(ControlRequest):
    """Send these in this order; without any, send all of them and stop withholding."""

    event_ids: tuple[str, ...] | None = None


class ScriptReadsRequest(ControlRequest):
    """Script the next reads of a connection, or of the list if none is given."""

    connection_id: Text | None = None
    steps: tuple[ScriptedRead, ...]


class ActivityRateRequest(ControlRequest):
    """Set the rate of the random activity, in actions a second."""

    rate: Annotated[float, Field(ge=0, le=10_000)]


class ResetRequest(ControlRequest):
    """Reset the simulation and create that many connections."""

    connections: Annotated[int, Field(ge=0, le=1_000_000)] = 0


async def parse_body(request: Request, body_type: type[B]) -> B:
    """Parse and validate the request's body; no body counts as an empty object.

    Raises:
        MalformedError: It is not JSON, or a field is invalid; the message names the field.
    """
    raw = await request.body()
    try:
        return body_type.model_validate(json.loads(raw or b"{}"))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        raise MalformedError(f"[{place}] {first['msg']}") from error
    except ValueError as error:
        raise MalformedError("the body is not JSON") from error


async def parse_object(request: Request) -> dict[str, Any]:
    """Parse the request's body as a JSON object with any fields."""
    return (await parse_body(request, AnyObject)).model_extra or {}


class AnyObject(BaseModel):
    """Any JSON object."""

    model_config = ConfigDict(extra="allow")
