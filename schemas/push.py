"""A push, from both sides: what is sent, and what came of it. Every answer, or none, is a value."""

from dataclasses import dataclass

PUSH_SECONDS = 20.0
"""One attempt, in all."""


@dataclass(frozen=True, slots=True)
class Receipt:
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
    is_ours: bool = False
    is_void: bool = False

    @property
    def is_taken(self) -> bool:
        """Whether the consumer took the event."""
        return self.detail is None

    @property
    def is_answered(self) -> bool:
        """Whether the consumer said anything, if only that it does not take the event."""
        return self.status is not None or self.response is not None

    @property
    def is_gone(self) -> bool:
        """Whether the consumer wants no more events at this URL."""
        return self.status == 410  # noqa: PLR2004 - a status code
