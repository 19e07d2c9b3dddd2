"""Limits of stored rejections: two classes of refused requests, and the rate limit and row count of each.

Anybody can send requests that are refused, in any number. A request is *likely* Meld's if it has a signature, a
timestamp and a whole JSON body with an event id: a wrong secret or URL in the settings refuses exactly such requests,
and an operator admits them later. Everything else is noise, and only the latest is kept as a sample. Noise
has a rate limit and rows of its own, so it can neither use up the rate of likely requests nor take their rows.
"""

from schemas.meld.webhook import RefusedWebhook

MAX_REJECTED_BODY_BYTES = 64 * 1024
"""How much of the body of a refused request is kept; a longer one cannot be verified again."""

SIGNED_REASONS = frozenset({"unreadable_time", "wrong", "too_old", "in_the_future"})
"""Reasons of requests that had one signature and one timestamp."""

LIKELY_PER_SECOND = 100.0
LIKELY_BURST = 1_000
"""Likely requests that a process accepts at once: Meld retries at once what it sent at once."""

MAX_LIKELY_ROWS = 10_000
"""Stored likely requests of each reason that wait to be admitted. Further ones are dropped, not the stored ones:
anybody can forge a likely request, and the stored ones may be genuine."""

MAX_LIKELY_BYTES = 128 * 1024 * 1024
"""Bytes of their bodies, of each reason."""

UNLIKELY_PER_SECOND = 1.0
UNLIKELY_BURST = 50
MAX_UNLIKELY_ROWS = 100
"""Stored other requests of each reason; further ones replace the oldest."""

MAX_QUEUE_LENGTH = 1_500
"""Requests that wait to be stored: both bursts, and some."""

MAX_QUEUE_BYTES = 16 * 1024 * 1024
"""Bytes of the bodies that wait or are being stored: a database that is slow must not cost memory."""


def may_be_likely(refused: RefusedWebhook) -> bool:
    """Return whether a request may be likely Meld's, without parsing its body."""
    return refused.reason in SIGNED_REASONS and b'"eventId"' in refused.body


def is_whole(size: int) -> bool:
    """Return whether a body of this many bytes is stored whole, so that its signature can be verified again."""
    return size <= MAX_REJECTED_BODY_BYTES
