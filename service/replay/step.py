"""Step: what one commit of a replay did, and how it goes on."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayStep:
    """One step.

    Attributes:
        after: The connection behind which the next one begins.
        count: How much was asked for.
        is_last: Whether nothing is left.
        rest: Seconds until the next step.
        calls: The connections whose workers should be called.
        waits: What it waits for, in words; None where it goes on.
        error: Why it cannot go on.
    """

    after: str
    count: int = 0
    is_last: bool = False
    rest: float = 0
    calls: tuple[str, ...] = ()
    waits: str | None = None
    error: str | None = None
