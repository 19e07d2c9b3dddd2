"""HMAC signing of pushes by Standard Webhooks: ``webhook-id``, ``webhook-timestamp``, ``webhook-signature``."""

from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

CONTENT_TYPE = "application/cloudevents+json"
REPLAY_HEADER = "meldwatch-replay"


def signed_headers(
    event_id: str, body: str, *, secrets: Sequence[str], now: datetime, replay_id: str | None = None
) -> dict[str, str]:
    """Return the headers of a push, with one signature for each secret.

    Args:
        event_id: The event's id: the idempotency key, the same for every attempt.
        body: The exact body that is sent.
        secrets: The subscription's secrets. Each one signs, so that during a rotation a consumer may verify with
            either.
        now: The time of signing; consumers reject signatures that are more than some minutes old.
        replay_id: The replay that sends the event again; its header is not signed, since the event is the same.
    """
    # The library ignores the time zone and treats every time as UTC.
    moment = now.astimezone(UTC)
    signatures = [Webhook(secret).sign(event_id, moment, body) for secret in secrets]
    headers = {
        "Content-Type": CONTENT_TYPE,
        "webhook-id": event_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
    return headers if replay_id is None else {**headers, REPLAY_HEADER: replay_id}
