import base64
import hmac
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
import standardwebhooks
import svix
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event

from runtime.database import Database
from tests.workers.pushlike import SECRET, ScriptedConsumer, deliver_on, emit, subscribe
from workers.sign import headers

OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
BODY = '{"name": "Crédit Agricole"}'


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Kolkata"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Machines of all time zones."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    os.environ["TZ"] = "UTC"
    time.tzset()


@pytest.mark.parametrize("hours", [0, -8, 5.5])
def test_two_verifiers_accept_it(zone: str, hours: float) -> None:
    """The reference library and Svix's, whatever zone the machine is in and the time is told in."""
    now = datetime.now(timezone(timedelta(hours=hours)))
    signed = headers("event-1", BODY, secrets=[SECRET], now=now)

    assert standardwebhooks.Webhook(SECRET).verify(BODY, signed) == json.loads(BODY)
    svix.Webhook(SECRET).verify(BODY.encode(), signed)  # raises where it does not accept


@pytest.mark.parametrize("secret", [SECRET, OTHER])
def test_either_secret_verifies_while_they_are_rotated(secret: str) -> None:
    """A consumer may know the old one or the new one."""
    signed = headers("event-1", BODY, secrets=[OTHER, SECRET], now=datetime.now(UTC))

    assert standardwebhooks.Webhook(secret).verify(BODY, signed)
    svix.Webhook(secret).verify(BODY.encode(), signed)


def test_a_replay_is_told_beside_the_signature() -> None:
    """One that is sent again bears its replay's id in a header more, and is signed as any other."""
    now = datetime.now(UTC)
    first = headers("event-1", BODY, secrets=[SECRET], now=now)
    again = headers("event-1", BODY, secrets=[SECRET], now=now, replay_id="r1")

    assert again == {**first, "meldwatch-replay": "r1"}


def test_it_is_what_the_specification_says() -> None:
    """By hand, since both libraries are one inside: HMAC-SHA256 over id, time and body, each with a dot between."""
    signed = headers("event-1", BODY, secrets=[SECRET], now=datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=3))))
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    digest = hmac.digest(key, f"event-1.1767301200.{BODY}".encode(), "sha256")

    assert signed["webhook-timestamp"] == "1767301200"
    assert signed["webhook-signature"] == "v1," + base64.b64encode(digest).decode()


@pytest.mark.parametrize(
    "change",
    [{"webhook-id": "event-2"}, {"webhook-timestamp": str(int(time.time()) - 5)}, {"webhook-signature": "v1,AAAA"}],
)
def test_what_was_changed_verifies_nowhere(change: dict[str, str]) -> None:
    """Id, time and signature are held together."""
    signed = headers("event-1", BODY, secrets=[SECRET], now=datetime.now(UTC)) | change

    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(SECRET).verify(BODY, signed)
    with pytest.raises(svix.webhooks.WebhookVerificationError):
        svix.Webhook(SECRET).verify(BODY, signed)


def test_what_is_delivered_is_accepted(database: Database) -> None:
    """Every push is a CloudEvent to the SDK, in structured mode, and verified by both libraries."""
    subscribe(database)
    events = emit(database, "c1", "c2")
    consumer = ScriptedConsumer()
    deliver_on(database, consumer).deliver("s1")

    for pushed in consumer.pushes:
        sent = dict(pushed.headers)
        event = from_structured_event(HTTPMessage(headers=sent, body=pushed.body))
        assert event.get_id() == sent["webhook-id"]
        assert event.get_type() == "connection.status_changed"
        assert event.get_extension("sequence") is not None
        assert sent["Content-Type"] == "application/cloudevents+json"
        assert standardwebhooks.Webhook(SECRET).verify(pushed.body, sent)["id"] == event.get_id()
        svix.Webhook(SECRET).verify(pushed.body, sent)
    assert sorted(consumer.event_ids) == sorted(events)
