"""API models of replays: request, filters, progress, and the preview of a dry run."""

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
    """Filters of a replay. All given filters must match."""

    connection: Text | None = Field(default=None, description="Only of the connection with this id.")
    type: Text | None = Field(
        default=None, description="Only webhooks with this Meld `eventType`, or events of this type."
    )
    since: Time | None = Field(
        default=None, description="Only webhooks first received, or events with a `time`, at this time or later."
    )
    until: Time | None = Field(
        default=None, description="Only webhooks first received, or events with a `time`, before this time."
    )


class WebhookFilter(ReplayFilter):
    """Filters of a replay of webhooks."""

    event_id: Text | None = Field(default=None, description="Only the webhook with this Meld `eventId`.")
    state: WebhookState | None = Field(
        default=None, description="Only webhooks in this state when the replay reaches them."
    )


class EventFilter(ReplayFilter):
    """Filters of a replay of events."""

    after: Position | None = Field(default=None, description="Only events after this position of the feed.")
    until_position: Position | None = Field(
        default=None, description="Only events up to and including this position of the feed."
    )


FILTER_MODELS: dict[ReplayKind, type[ReplayFilter]] = {"webhooks": WebhookFilter, "events": EventFilter}


class NewReplay(WebhookFilter, EventFilter):
    """A new replay: of webhooks (their connections are read again) or of events (they are pushed again)."""

    kind: ReplayKind = Field(description="What to replay.")
    subscription: Text | None = Field(
        default=None, description="For events: the name or id of the subscription that they are pushed to."
    )
    rate: Rate | None = Field(
        default=None, description=f"For webhooks: reads per second; the default is {DEFAULT_RATE:g}."
    )
    all: bool = Field(default=False, description="Required if there is no filter.")

    @property
    def filter(self) -> dict[str, Any]:
        """The given filters, as JSON."""
        names = {name for model in FILTER_MODELS.values() for name in model.model_fields}
        return self.model_dump(mode="json", include=names, exclude_none=True)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        known = FILTER_MODELS[self.kind].model_fields
        unsupported = [f"'{name}'" for name in self.filter if name not in known]
        if unsupported:
            raise ValueError(
                f"A replay of {self.kind} has no filter {', '.join(unsupported)}. Its filters are: {', '.join(known)}."
            )
        if (self.kind == "events") != (self.subscription is not None):
            raise ValueError("'subscription' is required for a replay of events, and not allowed for others.")
        if self.kind == "events" and self.rate is not None:
            raise ValueError(
                "'rate' is for replays of webhooks only: events are pushed as fast as they are acknowledged."
            )
        if self.kind == "events" and self.type not in {None, *get_args(EventType)}:
            raise ValueError(f"'type' of an event is one of {', '.join(get_args(EventType))}.")
        if not (self.filter or self.all):
            raise ValueError("A replay without a filter covers everything that is stored. Give a filter, or 'all'.")
        return self


class Replay(WireModel):
    """A replay. ``waiting`` means that no process runs it yet."""

    id: str
    kind: ReplayKind
    state: ReplayState = Field(description="`failed`: it could not be finished; `error` has the reason.")
    filter: dict[str, Any] = Field(description="The filters of the replay.")
    subscription_id: str | None = Field(description="The subscription that events are pushed to.")
    rate: float | None = Field(description="Reads per second.")
    who: str = Field(description="The token or user that started it.")
    created_at: datetime
    total: int | None = Field(
        description="The number of connections to read, or of events to push; null until it is counted."
    )
    done: int = Field(description="How many of them have been requested.")
    pending: int = Field(description="How many of these are not yet read, or not yet acknowledged by the subscriber.")
    stopped_at: datetime | None
    finished_at: datetime | None
    error: str | None

    @classmethod
    def from_row(cls, row: tables.ReplayRow, *, is_leased: bool, pending: int) -> "Replay":
        """Create the model from its row.

        Args:
            row: The row.
            is_leased: Whether a process runs it.
            pending: How many of the requested items are not done.
        """
        computed = {"state", "pending"}
        fields = {name: getattr(row, name) for name in cls.model_fields if name not in computed}
        state = get_replay_state(row, is_leased=is_leased)
        return cls.model_validate({**fields, "state": state, "pending": pending})


def get_replay_state(row: tables.ReplayRow, *, is_leased: bool) -> ReplayState:
    """Return the state of a replay, from its timestamps and its lease."""
    if row.finished_at is not None:
        return "finished" if row.error is None else "failed"
    if row.stopped_at is not None:
        return "stopped"
    return "running" if is_leased else "waiting"


class EventPreview(WireModel):
    """An event that a read would emit."""

    type: EventType
    previous: Status | str | None
    current: Status | str
    role: Role | None = Field(default=None, exclude_if=lambda value: value is None)


class ReadPreview(WireModel):
    """Preview of a read of a connection: what it would change (dry run)."""

    connection_id: str
    changes: list[FieldChange] = Field(
        default=[], description="The changed fields, named as in `GET /api/connections/{id}`."
    )
    unshown_changes: list[str] = Field(
        default=[], description="Meld's names of further changed fields that the API does not expose."
    )
    events: list[EventPreview] = Field(default=[], description="The events that would be emitted.")
    siblings: list[str] = Field(
        default=[], description="The members of its duplicate group that would be read as well."
    )
    failure: str | None = Field(default=None, description="Why the read would fail and change nothing.")

    @property
    def is_clean(self) -> bool:
        """Whether the read would change nothing."""
        return not (self.changes or self.unshown_changes or self.events or self.siblings or self.failure)


class ResendPreview(WireModel):
    """Preview of a replay of events: how many of a type it would push again for a connection (dry run)."""

    connection_id: str
    type: str
    events: int
    first_position: int
    last_position: int
