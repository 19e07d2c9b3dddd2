"""Replays, as they are asked for and told of, and what a dry run of one says."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, model_validator

from schemas import tables
from schemas.api_queries import MAX_POSITION, Text, Time
from schemas.api_resources import WebhookState
from schemas.connection_changes import EventType, Role, Status
from schemas.subscriptions import RequestModel
from schemas.timeline import FieldChange
from schemas.wire_model import WireModel

DEFAULT_RATE = 20.0
MIN_RATE = 0.01
MAX_RATE = 1000.0

ReplayKind = Literal["webhooks", "events"]
ReplayState = Literal["waiting", "running", "stopped", "finished", "failed"]
Rate = Annotated[float, Field(ge=MIN_RATE, le=MAX_RATE, allow_inf_nan=False)]
Position = Annotated[int, Field(ge=0, le=MAX_POSITION)]


class ReplayFilter(RequestModel):
    """Which of what is stored; all that is given must match."""

    connection: Text | None = Field(default=None, description="The connection's id.")
    type: Text | None = Field(default=None, description="Meld's eventType, or our event's type.")
    since: Time | None = Field(default=None, description="A webhook received, an event's `time`: then or later.")
    until: Time | None = Field(default=None, description="The same: before.")


class WebhookFilter(ReplayFilter):
    """Which webhooks."""

    event_id: Text | None = Field(default=None, description="Of a webhook: Meld's eventId.")
    state: WebhookState | None = Field(default=None, description="Of a webhook, as it is when the replay comes to it.")


class EventFilter(ReplayFilter):
    """Which events."""

    after: Position | None = Field(default=None, description="Of events: only behind this position.")
    until_position: Position | None = Field(default=None, description="Of events: up to this position.")


FILTER_MODELS: dict[ReplayKind, type[ReplayFilter]] = {"webhooks": WebhookFilter, "events": EventFilter}


class NewReplay(WebhookFilter, EventFilter):
    """A replay that shall be started: of webhooks, whose connections are read again, or of events to a subscription."""

    kind: ReplayKind
    subscription: Text | None = Field(default=None, description="Of events: whom they are sent to again; name or id.")
    rate: Rate | None = Field(default=None, description=f"Of webhooks: reads a second; by default {DEFAULT_RATE:g}.")
    all: bool = Field(default=False, description="Needed where no filter is given.")

    @property
    def filter(self) -> dict[str, Any]:
        """The filters that are given, as JSON."""
        names = {name for shape in FILTER_MODELS.values() for name in shape.model_fields}
        return self.model_dump(mode="json", include=names, exclude_none=True)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        known = FILTER_MODELS[self.kind].model_fields
        foreign = [f"'{name}'" for name in self.filter if name not in known]
        if foreign:
            raise ValueError(f"A replay of {self.kind} has no {', '.join(foreign)}. It has: {', '.join(known)}.")
        if (self.kind == "events") != (self.subscription is not None):
            raise ValueError("'subscription' is needed in a replay of events, and there alone.")
        if self.kind == "events" and self.rate is not None:
            raise ValueError("'rate' belongs to a replay of webhooks: events are sent as fast as they are taken.")
        if self.kind == "events" and self.type not in {None, *get_args(EventType)}:
            raise ValueError(f"'type' of an event is one of {', '.join(get_args(EventType))}.")
        if not (self.filter or self.all):
            raise ValueError("Without a filter a replay is about everything that is stored. Give one, or 'all'.")
        return self


class Replay(WireModel):
    """A replay. ``waiting`` means that no process runs it yet."""

    id: str
    kind: ReplayKind
    state: ReplayState = Field(description="`failed`: it could not be finished; `error` says why.")
    filter: dict[str, Any] = Field(description="The filters that it was given.")
    subscription_id: str | None = Field(description="Whom events are sent to again.")
    rate: float | None = Field(description="Reads a second.")
    who: str = Field(description="Who started it.")
    created_at: datetime
    total: int | None = Field(description="Connections to be read, or events to be sent; null until it is counted.")
    done: int = Field(description="How many of them have been asked for.")
    pending: int = Field(description="How many of these are still to be read, or to be taken by the subscriber.")
    stopped_at: datetime | None
    finished_at: datetime | None
    error: str | None

    @classmethod
    def from_row(cls, row: tables.ReplayRow, *, is_leased: bool, pending: int) -> "Replay":
        """Make the shape from the row.

        Args:
            row: The row.
            is_leased: Whether a process runs it.
            pending: How much of what it has asked for is still to be done.
        """
        computed = {"state", "pending"}
        fields = {name: getattr(row, name) for name in cls.model_fields if name not in computed}
        state = get_replay_state(row, is_leased=is_leased)
        return cls.model_validate({**fields, "state": state, "pending": pending})


def get_replay_state(row: tables.ReplayRow, *, is_leased: bool) -> ReplayState:
    """Return the state that a replay's timestamps amount to."""
    if row.finished_at is not None:
        return "finished" if row.error is None else "failed"
    if row.stopped_at is not None:
        return "stopped"
    return "running" if is_leased else "waiting"


class EventPreview(WireModel):
    """An event that a read would lead to."""

    type: EventType
    previous: Status | str | None
    current: Status | str
    role: Role | None = Field(default=None, exclude_if=lambda value: value is None)


class ReadPreview(WireModel):
    """What a read of a connection would change, had it been made in earnest."""

    connection_id: str
    changes: list[FieldChange] = Field(default=[], description="Fields, as in `GET /api/connections/{id}`.")
    unshown_changes: list[str] = Field(default=[], description="Fields of Meld's answer that the API does not show.")
    events: list[EventPreview] = Field(default=[], description="What would be emitted.")
    siblings: list[str] = Field(default=[], description="Members of its group that would be read as well.")
    failure: str | None = Field(default=None, description="Why it would fail; then the mirror stays as it is.")

    @property
    def is_clean(self) -> bool:
        """Whether nothing would happen but that it is read."""
        return not (self.changes or self.unshown_changes or self.events or self.siblings or self.failure)


class ResendPreview(WireModel):
    """How many events of a type a replay would send again about a connection."""

    connection_id: str
    type: str
    events: int
    first_position: int
    last_position: int
