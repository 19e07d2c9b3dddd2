"""A push, from both sides: what is sent, and what came of it. Every answer, or none, is a value."""

from dataclasses import dataclass

from pydantic import BaseModel, Field
from pydantic.config import JsonDict
from pydantic.json_schema import SkipJsonSchema

PUSH_TIMEOUT_SECONDS = 20.0
"""One attempt, in all."""


def _without_default(schema: JsonDict) -> None:
    """Say only that a header may be absent, not what its absence is called here."""
    schema.pop("default")


class PushHeaders(BaseModel):
    """The headers of a push, after Standard Webhooks, beside those of every POST."""

    id: str = Field(
        alias="webhook-id", description="The event's id, the same for every attempt: it tells what came before."
    )
    timestamp: str = Field(
        alias="webhook-timestamp",
        pattern=r"^\d+$",
        description="When this attempt was signed, in Unix seconds; refuse what is more than five minutes away.",
    )
    signature: str = Field(
        alias="webhook-signature",
        pattern=r"^v1,\S+( v1,\S+)*$",
        description="Signatures with spaces between, one for each secret while they are rotated: one must fit.",
    )
    replay: str | SkipJsonSchema[None] = Field(
        default=None,
        alias="meldwatch-replay",
        description="Where an operator has events sent again: the replay. It is not signed.",
        json_schema_extra=_without_default,
    )


@dataclass(frozen=True, slots=True)
class PushResult:
    """What came of one attempt to push.

    Attributes:
        status: The consumer's HTTP status; None where there was no answer.
        detail: What went wrong, for a person; None where nothing did.
        response: The beginning of the consumer's answer, as evidence.
        retry_after: Seconds that the consumer asked to be left alone for.
        is_ours: Whether the attempt failed here, before anything was sent: no fault of the consumer's.
        is_void: Whether this process cut the attempt short because it ends: it counts for nothing at all.
    """

    status: int | None = None
    detail: str | None = None
    response: str | None = None
    retry_after: float | None = None
    is_local_failure: bool = False
    is_cancelled: bool = False

    @property
    def is_acknowledged(self) -> bool:
        """Whether the consumer took the event."""
        return self.detail is None

    @property
    def is_answered(self) -> bool:
        """Whether the consumer said anything, if only that it does not take the event."""
        return self.status is not None or self.response is not None

    @property
    def is_unsubscribed(self) -> bool:
        """Whether the consumer wants no more events at this URL."""
        return self.status == 410  # noqa: PLR2004 - a status code
