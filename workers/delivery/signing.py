"""Sign: the headers of a push, after Standard Webhooks. The clock is the caller's."""

from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

CONTENT_TYPE = "application/cloudevents+json"
REPLAY = "meldwatch-replay"


def headers(
    event_id: str, body: str, *, secrets: Sequence[str], now: datetime, replay_id: str | None = None
) -> dict[str, str]:
    """Return the headers of a push; the id is the event's, the same for every attempt.

    Args:
        event_id: The event.
        body: What is sent, to the letter.
        secrets: The subscription's secrets; each signs, so that a consumer may know either while they are rotated.
        now: The present; a consumer takes a signature for some minutes.
        replay_id: The replay that the push is of. It is told and not signed: it changes nothing of what is said.
    """
    # The library takes any time for UTC, whatever zone it says that it is of.
    moment = now.astimezone(UTC)
    signatures = [Webhook(secret).sign(event_id, moment, body) for secret in secrets]
    signed = {
        "Content-Type": CONTENT_TYPE,
        "webhook-id": event_id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
    return signed if replay_id is None else {**signed, REPLAY: replay_id}
