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
from tests.support.scripted_consumer import SECRET, ScriptedConsumer, emit, make_dispatcher, subscribe
from workers.delivery.signing import signed_headers

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
    """The reference library and Svix's, for any time zone of the machine and of the time."""
    now = datetime.now(timezone(timedelta(hours=hours)))
    signed = signed_headers("event-1", BODY, secrets=[SECRET], now=now)

    assert standardwebhooks.Webhook(SECRET).verify(BODY, signed) == json.loads(BODY)
    svix.Webhook(SECRET).verify(BODY.encode(), signed)  # raises where it does not accept


@pytest.mark.parametrize("secret", [SECRET, OTHER])
def test_either_secret_verifies_while_they_are_rotated(secret: str) -> None:
    """A consumer may know the old one or the new one."""
    signed = signed_headers("event-1", BODY, secrets=[OTHER, SECRET], now=datetime.now(UTC))

    assert standardwebhooks.Webhook(secret).verify(BODY, signed)
    svix.Webhook(secret).verify(BODY.encode(), signed)


def test_a_replay_has_an_unsigned_header() -> None:
    """A replayed push has one more header, the replay's id, and the same signature."""
    now = datetime.now(UTC)
    first = signed_headers("event-1", BODY, secrets=[SECRET], now=now)
    again = signed_headers("event-1", BODY, secrets=[SECRET], now=now, replay_id="r1")

    assert again == {**first, "meldwatch-replay": "r1"}


def test_it_follows_the_specification() -> None:
    """Computed by hand, since both libraries share code: HMAC-SHA256 over id, time and body, separated by dots."""
    signed = signed_headers(
        "event-1", BODY, secrets=[SECRET], now=datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=3)))
    )
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    digest = hmac.digest(key, f"event-1.1767301200.{BODY}".encode(), "sha256")

    assert signed["webhook-timestamp"] == "1767301200"
    assert signed["webhook-signature"] == "v1," + base64.b64encode(digest).decode()


@pytest.mark.parametrize(
    "change",
    [{"webhook-id": "event-2"}, {"webhook-timestamp": str(int(time.time()) - 5)}, {"webhook-signature": "v1,AAAA"}],
)
def test_a_changed_push_does_not_verify(change: dict[str, str]) -> None:
    """The signature covers id and time."""
    signed = signed_headers("event-1", BODY, secrets=[SECRET], now=datetime.now(UTC)) | change

    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(SECRET).verify(BODY, signed)
    with pytest.raises(svix.webhooks.WebhookVerificationError):
        svix.Webhook(SECRET).verify(BODY, signed)


def test_delivered_pushes_are_accepted(database: Database) -> None:
    """The tests' consumer verifies each push; the CloudEvents extensions are those of the event."""
    subscribe(database)
    events = emit(database, "c1", "c2")
    consumer = ScriptedConsumer()
    make_dispatcher(database, consumer).deliver("s1")

    got = [from_structured_event(HTTPMessage(dict(pushed.headers), pushed.body)) for pushed in consumer.pushes]
    assert sorted(event.get_id() for event in got) == sorted(events)
    assert sorted(event.get_extension("sequence") for event in got) == ["00000001", "00000002"]
    assert sorted(event.get_extension("position") for event in got) == [1, 2]


def test_the_scripted_consumer_rejects_invalid_pushes(database: Database) -> None:
    """It rejects pushes that are altered, signed with another secret, or invalid by our own schema."""
    subscribe(database)
    emit(database, "c1")
    consumer = ScriptedConsumer()
    make_dispatcher(database, consumer).deliver("s1")
    (good,) = consumer.pushes
    event = json.loads(good.body)

    def refuses(body: bytes, *, secret: str = SECRET, **changes: str) -> None:
        signed = signed_headers(good.event_id, body.decode(), secrets=[secret], now=datetime.now(UTC)) | changes
        with pytest.raises(pytest.fail.Exception, match="a push was refused"):
            consumer.send(good.url, signed, body)

    refuses(good.body, secret=OTHER)
    refuses(good.body, **{"webhook-signature": good.headers["webhook-signature"][:-4]})
    refuses(good.body, **{"Content-Type": "application/json"})
    refuses(json.dumps({**event, "id": "another"}).encode())
    refuses(json.dumps({**event, "specversion": "2.0"}).encode())
    refuses(json.dumps({**event, "sequence": "7"}).encode())
    refuses(json.dumps({**event, "data": {**event["data"], "more": 1}}).encode())
