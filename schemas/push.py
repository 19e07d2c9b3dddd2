"""A push, from both sides: what is sent, and what came of it. Every answer, or none, is a value."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Receipt:
    """What came of one attempt to push.

    Attributes:
        status: The consumer's HTTP status; None where there was no answer.
        detail: What went wrong, for a person; None where nothing did.
        response: The beginning of the consumer's answer, as evidence.
        retry_after: Seconds that the consumer asked to be left alone for.
        is_ours: Whether the attempt failed here, before anything was sent: no fault of the consumer's.
    """

    status: int | None = None
    detail: str | None = None
    response: str | None = None
    retry_after: float | None = None
    is_ours: bool = False

    @property
    def is_taken(self) -> bool:
        """Whether the consumer took the event."""
        return self.detail is None

    @property
    def is_gone(self) -> bool:
        """Whether the consumer wants no more events at this URL."""
        return self.status == 410  # noqa: PLR2004 - a status code
