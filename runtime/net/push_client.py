"""Push: one POST to a subscriber's URL, bounded in time and size, to addresses that the guard permits.

Every outcome is a value; what follows from it is decided in ``workers/delivery/backoff.py``.
"""

from collections.abc import Mapping
from functools import partial
from urllib.parse import urlsplit

from runtime.clock import Clock, utcnow
from runtime.errors import UnsafeUrlError
from runtime.net.deadline_client import DeadlineClient, HttpExchangeError, HttpResponse
from runtime.net.ssrf_guard import SsrfGuard
from runtime.security.lenient_json import clean_text
from runtime.security.redaction import redact
from schemas.push import PUSH_TIMEOUT_SECONDS, PushResult

READ_TIMEOUT_SECONDS = 15.0
"""How long a consumer may say nothing."""

MAX_RESPONSE_BYTES = 64 * 1024
MAX_EXCERPT_BYTES = 1024


class PushClient:
    """The way to subscribers. Threads share one.

    Args:
        guard: Says where a push may go.
        connections: How many pushes may be under way at once.
        seconds: The bound on one, in all.
        clock: Read only for a ``Retry-After`` that names a time of day.
    """

    def __init__(
        self, *, guard: SsrfGuard, connections: int, seconds: float = PUSH_TIMEOUT_SECONDS, clock: Clock = utcnow
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        # Without TLS fewer addresses are permitted, and a connection does not know what it is made for: a pool each.
        self._exchanges = {
            scheme: DeadlineClient(connections=connections, resolve=partial(guard.resolve, is_plain=scheme == "http"))
            for scheme in ("https", "http")
        }

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> PushResult:
        """Send a push. Never raises for what the other side does."""
        exchange = self._exchanges.get(urlsplit(url).scheme)
        if exchange is None:
            return PushResult(detail="the URL is neither https nor http")
        try:
            answer = exchange.post(
                url,
                headers={**headers, "Accept-Encoding": "identity", "User-Agent": "meldwatch"},
                body=body,
                seconds=self._seconds,
                read_seconds=READ_TIMEOUT_SECONDS,
                limit=MAX_RESPONSE_BYTES,
            )
        except (HttpExchangeError, UnsafeUrlError) as error:
            return PushResult(detail=str(error))
        return self._receipt(answer)

    def close(self) -> None:
        """Close all connections."""
        for exchange in self._exchanges.values():
            exchange.close()

    def _receipt(self, answer: HttpResponse) -> PushResult:
        if 200 <= answer.status < 300:  # noqa: PLR2004 - status codes
            return PushResult(answer.status)
        return PushResult(
            status=answer.status,
            detail=f"the consumer answered {answer.status}",
            response=response_excerpt(answer.body),
            retry_after=answer.retry_after(self._clock()),
        )


def response_excerpt(body: bytes) -> str:
    """Return the beginning of what a consumer said: a stranger's text, stored and shown, so without credentials."""
    return str(redact(clean_text(body[:MAX_EXCERPT_BYTES].decode("utf-8", errors="replace"))))
