"""Push to a subscriber: the headers (Standard Webhooks), and the result of an attempt as a value."""

from dataclasses import dataclass

from pydantic import BaseModel, Field
from pydantic.config import JsonDict
from pydantic.json_schema import SkipJsonSchema

PUSH_TIMEOUT_SECONDS = 20.0
"""The timeout of one attempt."""


def _without_default(schema: JsonDict) -> None:
    """Remove the default from the schema: the header is optional, and never null."""
    schema.pop("default")


class PushHeaders(BaseModel):
    """The headers of a push, by Standard Webhooks, beside those of every POST."""

    id: str = Field(
        alias="webhook-id", description="The event's id, the same in every attempt: use it to recognize repeats."
    )
    timestamp: str = Field(
        alias="webhook-timestamp",
        pattern=r"^\d+$",
        description="When this attempt was signed, in Unix seconds; refuse times that are more than five minutes away.",
    )
    signature: str = Field(
        alias="webhook-signature",
        pattern=r"^v1,\S+( v1,\S+)*$",
        description="Signatures separated by spaces, one for each secret during a rotation: one of them must be valid.",
    )
    replay: str | SkipJsonSchema[None] = Field(
        default=None,
        alias="meldwatch-replay",
        description="The id of the replay, if an operator sends the event again. It is not signed.",
        json_schema_extra=_without_default,
    )


@dataclass(frozen=True, slots=True)
class PushResult:
    """The result of one attempt to push.

    Attributes:
        status: The consumer's HTTP status; None without a response.
        detail: What went wrong, for people; None if the push was acknowledged.
        response: The beginning of the consumer's response.
        retry_after: The seconds of the consumer's ``Retry-After``.
        is_ours: Whether the attempt failed on our side, before anything was sent.
        is_void: Whether this process stopped the attempt because it shuts down: the attempt does not count.
    """

    status: int | None = None
    detail: str | None = None
    response: str | None = None
    retry_after: float | None = None
    is_local_failure: bool = False
    is_cancelled: bool = False

    @property
    def is_acknowledged(self) -> bool:
        """Whether the consumer acknowledged the event."""
        return self.detail is None

    @property
    def is_answered(self) -> bool:
        """Whether there was a response of the consumer, of any status."""
        return self.status is not None or self.response is not None

    @property
    def is_unsubscribed(self) -> bool:
        """Whether the consumer wants no more events at this URL (410 Gone)."""
        return self.status == 410  # noqa: PLR2004 - a status code
