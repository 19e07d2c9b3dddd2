"""HTTP client for pushes to subscribers: one POST with a deadline, a size limit and the SSRF guard.

Every result is a value. ``workers/delivery`` decides what follows from it.
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
"""How long a consumer may send nothing."""

MAX_RESPONSE_BYTES = 64 * 1024
MAX_EXCERPT_BYTES = 1024


class PushClient:
    """Sends pushes. Threads share one client.

    Args:
        guard: Decides which addresses may be connected to.
        connections: The maximum number of concurrent pushes.
        seconds: The deadline of one push.
        clock: Used only for a ``Retry-After`` header that names a date.
    """

    def __init__(
        self, *, guard: SsrfGuard, connections: int, seconds: float = PUSH_TIMEOUT_SECONDS, clock: Clock = utcnow
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        # Plain HTTP is permitted to fewer addresses than HTTPS, and a pool does not tell its resolver the scheme.
        self._clients = {
            scheme: DeadlineClient(connections=connections, resolve=partial(guard.resolve, is_plain=scheme == "http"))
            for scheme in ("https", "http")
        }

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> PushResult:
        """Send a push. Never raises for what the consumer does."""
        client = self._clients.get(urlsplit(url).scheme)
        if client is None:
            return PushResult(detail="the URL is neither https nor http")
        try:
            response = client.post(
                url,
                headers={**headers, "Accept-Encoding": "identity", "User-Agent": "meldwatch"},
                body=body,
                seconds=self._seconds,
                read_seconds=READ_TIMEOUT_SECONDS,
                max_bytes=MAX_RESPONSE_BYTES,
            )
        except (HttpExchangeError, UnsafeUrlError) as error:
            return PushResult(detail=str(error))
        return self._to_result(response)

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            client.close()

    def _to_result(self, response: HttpResponse) -> PushResult:
        if 200 <= response.status < 300:  # noqa: PLR2004 - status codes
            return PushResult(response.status)
        return PushResult(
            status=response.status,
            detail=f"the consumer answered {response.status}",
            response=response_excerpt(response.body),
            retry_after=response.retry_after(self._clock()),
        )


def response_excerpt(body: bytes) -> str:
    """Return the beginning of a consumer's response: untrusted text that is stored and shown, hence redacted."""
    return str(redact(clean_text(body[:MAX_EXCERPT_BYTES].decode("utf-8", errors="replace"))))
