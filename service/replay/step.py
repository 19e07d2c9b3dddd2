"""Result of one step of a replay: what one commit did, and when and where the next step begins."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayStep:
    """One step.

    Attributes:
        after: The cursor: the id of the connection behind which the next step begins.
        count: How many reads were requested, or deliveries appended.
        is_last: Whether nothing remains.
        delay_seconds: The time until the next step.
        connections_to_notify: The connections whose workers to notify after the commit.
        waiting_for: What the replay waits for, for people; None if it does not wait.
        error: Why the replay cannot continue.
    """

    after: str
    count: int = 0
    is_last: bool = False
    delay_seconds: float = 0
    connections_to_notify: tuple[str, ...] = ()
    waiting_for: str | None = None
    error: str | None = None
