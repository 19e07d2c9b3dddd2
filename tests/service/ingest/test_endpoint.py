import http.client
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from sqlmodel import col, select

from runtime.database import Database
from runtime.errors import OutOfReachError
from schemas.meld.webhook import RefusedWebhook
from schemas.tables import ReadRequestRow, WebhookRow
from service.ingest.endpoint import MAX_BODY_BYTES, MAX_DISCARDED_BYTES, MAX_HEADER_CHARACTERS
from service.rejected.limits import MAX_REJECTED_BODY_BYTES
from tests.meldwatch.process.raw_http_client import Answer, Wire, request
from tests.service.ingest.webhook_server import (
    FakeWebhookTable,
    WebhookServer,
    chunked,
    running_inbox,
    serve_webhooks,
    signed,
)
from tests.support.meld_signature import SECRET, SIGNED_AT, TIMESTAMP, sign
from tests.support.polling import eventually
from tests.support.webhook_factory import decrypted_body

BODY = b'{"eventType":"WEBHOOK_TEST","eventId":"e1","payload":{"connectionId":"c1"}}'
TIME = f"Meld-Signature-Timestamp: {TIMESTAMP.decode()}"


@pytest.fixture
def table() -> FakeWebhookTable:
    """A webhook table in memory."""
    return FakeWebhookTable()


@pytest.fixture
def refused() -> list[RefusedWebhook]:
    """The refused requests."""
    return []


@pytest.fixture
def fake_server(table: FakeWebhookTable, refused: list[RefusedWebhook]) -> Iterator[WebhookServer]:
    """The route in front of the fake table, with short timeouts."""
    with (
        running_inbox(table, commit_timeout_seconds=0.3) as store,
        serve_webhooks(store.put, reject=refused.append, body_timeout_seconds=0.4) as decrypted_body,
    ):
        yield decrypted_body
        table.gate.set()


@pytest.fixture
def database_server(database: Database) -> Iterator[WebhookServer]:
    """The route in front of a real database."""
    with running_inbox(database) as store, serve_webhooks(store.put) as decrypted_body:
        yield decrypted_body


def send(server: WebhookServer, *requests: bytes) -> list[Answer]:
    """Send requests at once over one connection; return their responses."""
    with Wire(server.url) as wire:
        wire.send(b"".join(requests))
        return [wire.answer() for _ in requests]


def webhooks(database: Database) -> list[WebhookRow]:
    with database.read() as session:
        return list(session.exec(select(WebhookRow).order_by(col(WebhookRow.id))).all())


def body_of(size: int) -> bytes:
    """Return a parseable webhook of this many bytes."""
    return BODY[:-1] + b',"x":"' + b"y" * (size - len(BODY) - 7) + b'"}'


def test_new_and_repeated_webhooks_are_200_with_an_empty_body(
    database_server: WebhookServer, database: Database
) -> None:
    """Exactly 200 and an empty body for new and repeated webhooks; the repeat is counted."""
    answers = send(database_server, *[signed(BODY)] * 3)

    (stored,) = webhooks(database)
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"")] * 3
    assert (stored.event_id, decrypted_body(stored), stored.deliveries) == ("e1", BODY, 3)
    assert database_server.count("stored") == 3


def test_what_is_stored_is_what_was_signed(database_server: WebhookServer, database: Database) -> None:
    """Body, URL and time are stored as they were verified, with the selected headers."""
    lines = ["Meld-Retry-Count: 3", "Meld-Retry-Reason: HTTP error: 503", "User-Agent: Meld\xe9", "Cookie: secret"]
    send(database_server, signed(BODY, *lines, "Authorization: Bearer secret"))

    (stored,) = webhooks(database)
    assert stored.signed_at == datetime(2022, 5, 26, 20, 25, 17, 682818, tzinfo=UTC)
    assert stored.url == "https://example.meld.io/webhooks"
    assert stored.headers == {
        "meld-signature": sign(BODY).decode(),
        "meld-signature-timestamp": TIMESTAMP.decode(),
        "meld-retry-count": "3",
        "meld-retry-reason": "HTTP error: 503",
        "user-agent": "Meld\xe9",
    }


def test_a_stored_webhook_requests_a_read(database_server: WebhookServer, database: Database) -> None:
    """A webhook that was answered 200 has a read request of its connection."""
    send(database_server, signed(BODY))

    with database.read() as session:
        job = session.exec(select(ReadRequestRow)).one()
    assert (job.connection_id, job.requested, job.completed, job.trigger) == ("c1", 1, 0, "webhook")


def test_stored_headers_are_truncated(fake_server: WebhookServer, table: FakeWebhookTable) -> None:
    """A long header is truncated."""
    send(fake_server, signed(BODY, "User-Agent: " + "x" * 10_000))

    assert table.stored[0].headers["user-agent"] == "x" * MAX_HEADER_CHARACTERS


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        pytest.param([], "missing", id="no headers"),
        pytest.param([TIME], "missing", id="no signature"),
        pytest.param([f"Meld-Signature: {sign(BODY).decode()}"], "missing", id="no time"),
        pytest.param([f"Meld-Signature: {sign(BODY).decode()}"] * 2 + [TIME], "missing", id="two signatures"),
        pytest.param(["Meld-Signature: ", TIME], "wrong", id="an empty signature"),
        pytest.param([f"Meld-Signature: {sign(b'{}').decode()}", TIME], "wrong", id="another body's"),
        pytest.param([f"Meld-Signature: {sign(BODY, url='http://x').decode()}", TIME], "wrong", id="another URL's"),
        pytest.param(["Meld-Signature: \xff\xfe", TIME], "wrong", id="not ASCII"),
        pytest.param(["Meld-Signature: x", "Meld-Signature-Timestamp: now"], "unreadable_time", id="no time at all"),
        pytest.param(["Meld-Signature: x", "Meld-Signature-Timestamp: \xff"], "unreadable_time", id="time not ASCII"),
    ],
)
def test_a_bad_signature_is_401(
    fake_server: WebhookServer, table: FakeWebhookTable, lines: list[str], reason: str
) -> None:
    """Nothing unsigned is stored; the reason is in the log and the metrics, not in the response."""
    (answer,) = send(fake_server, request(BODY, *lines))

    assert (answer.status, table.stored, fake_server.count(reason)) == (401, [], 1)
    assert reason.encode() not in answer.body
    assert SECRET.encode() not in answer.body
    assert sign(BODY) not in answer.body


@pytest.mark.parametrize(
    ("timestamp", "reason"),
    [(b"2022-05-20T00:00:00Z", "too_old"), (b"1653000000", "too_old"), (b"2022-05-26T20:40:00Z", "in_the_future")],
)
def test_a_time_outside_the_window_is_401(
    fake_server: WebhookServer, table: FakeWebhookTable, timestamp: bytes, reason: str
) -> None:
    """A valid signature with a time outside the window is refused."""
    signature = sign(BODY, timestamp=timestamp).decode()
    lines = [f"Meld-Signature: {signature}", f"Meld-Signature-Timestamp: {timestamp.decode()}"]

    (answer,) = send(fake_server, request(BODY, *lines))

    assert (answer.status, table.stored, fake_server.count(reason)) == (401, [], 1)


def test_late_webhooks_are_counted(fake_server: WebhookServer) -> None:
    """A signature that is hours old is accepted, and counted as late."""
    timestamp = b"2022-05-26T10:00:00Z"
    lines = [f"Meld-Signature: {sign(BODY, timestamp=timestamp).decode()}"]

    (answer,) = send(fake_server, request(BODY, *lines, f"Meld-Signature-Timestamp: {timestamp.decode()}"))

    late = fake_server.metrics.registry.get_sample_value("meldwatch_webhooks_signed_long_ago_total")
    assert (answer.status, late) == (200, 1)


@pytest.mark.parametrize("size", [MAX_BODY_BYTES - 1, MAX_BODY_BYTES])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunks"])
def test_a_body_of_one_mebibyte_is_accepted(
    database_server: WebhookServer,
    database: Database,
    size: int,
    is_chunked: bool,  # noqa: FBT001 - drawn
) -> None:
    """Exactly 1 MiB is stored, byte for byte."""
    body = body_of(size)
    (answer,) = send(database_server, chunked(body, 10_000) if is_chunked else signed(body))

    (stored,) = webhooks(database)
    assert (answer.status, len(decrypted_body(stored)), decrypted_body(stored) == body) == (200, size, True)


def ordinary_post(url: str, body: bytes, headers: dict[str, str], *, is_chunked: bool) -> tuple[int, str | None]:
    """Send the whole body before reading the response, as the standard library does."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=4)
    pieces = iter([body[start : start + 65536] for start in range(0, len(body), 65536)])
    connection.request("POST", "/webhooks/meld", pieces if is_chunked else body, headers, encode_chunked=is_chunked)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, answer.getheader("connection")


@pytest.mark.parametrize("size", [MAX_BODY_BYTES + 1, 8 * MAX_BODY_BYTES])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunks"])
def test_a_longer_body_is_413(fake_server: WebhookServer, table: FakeWebhookTable, size: int, is_chunked: bool) -> None:  # noqa: FBT001 - drawn
    """A client that sends the whole body before it reads receives the 413."""
    body = body_of(size)
    framing = {"Transfer-Encoding": "chunked"} if is_chunked else {"Content-Length": str(size)}
    headers = {"Meld-Signature": sign(body).decode(), "Meld-Signature-Timestamp": TIMESTAMP.decode(), **framing}

    assert ordinary_post(fake_server.url, body, headers, is_chunked=is_chunked) == (413, "close")
    assert (table.stored, fake_server.count("too_large")) == ([], 1)


def test_an_ordinary_client_receives_the_415(fake_server: WebhookServer) -> None:
    """It receives the 415 too: unread bytes must not reset the connection before the response."""
    headers = {"Content-Encoding": "gzip"}

    assert ordinary_post(fake_server.url, body_of(MAX_BODY_BYTES), headers, is_chunked=False) == (415, "close")


def test_an_endless_body_is_cut_off(fake_server: WebhookServer) -> None:
    """A body far beyond the discarded bytes closes the connection."""
    with Wire(fake_server.url) as wire:
        wire.send(signed(BODY, f"Content-Length: {100 * MAX_DISCARDED_BYTES}"))
        wire.send_until_closed(b"x" * 2 * MAX_DISCARDED_BYTES)

        assert eventually(lambda: not wire.is_open(), seconds=3)
    assert fake_server.count("too_large") + fake_server.count("slow") == 1


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("is_trickling", [False, True], ids=["stalled", "trickling"])
def test_a_slow_body_is_408(
    fake_server: WebhookServer,
    table: FakeWebhookTable,
    framing: str,
    is_trickling: bool,  # noqa: FBT001 - drawn
) -> None:
    """The whole body must arrive within the timeout, however it is sent."""
    with Wire(fake_server.url) as wire:
        wire.send(signed(b"", framing))
        sent = 0
        while is_trickling and wire.is_silent(0.05):
            wire.send(b"x" if "Length" in framing else b"1\r\nx\r\n")
            sent += 1
            assert sent < 50
        answer = wire.answer()

        assert (answer.status, answer.headers["connection"], wire.is_closed()) == (408, "close", True)
    assert (table.stored, fake_server.count("slow")) == ([], 1)


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "deflate", "zstd", "identity, gzip", "x"])
def test_an_encoded_body_is_415(fake_server: WebhookServer, table: FakeWebhookTable, encoding: str) -> None:
    """A body with a Content-Encoding is refused, signed or not."""
    (answer,) = send(fake_server, signed(BODY, f"Content-Encoding: {encoding}"))

    assert (answer.status, table.stored, fake_server.count("encoded")) == (415, [], 1)


@pytest.mark.parametrize("encoding", ["identity", "Identity"])
def test_identity_is_no_encoding(fake_server: WebhookServer, encoding: str) -> None:
    """``identity`` is no encoding."""
    (answer,) = send(fake_server, signed(BODY, f"Content-Encoding: {encoding}"))

    assert answer.status == 200


@pytest.mark.parametrize("type_", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"])
def test_the_content_type_does_not_matter(fake_server: WebhookServer, table: FakeWebhookTable, type_: str) -> None:
    """The signature does not cover the media type, so it is ignored."""
    (answer,) = send(fake_server, signed(BODY, f"Content-Type: {type_}"))

    assert (answer.status, table.stored[0].body) == (200, BODY)


def test_a_store_that_fails_is_503(fake_server: WebhookServer, table: FakeWebhookTable) -> None:
    """A webhook that could not be stored is answered 503; the retry on the same connection succeeds."""
    table.error = OutOfReachError("The database does not answer.")
    with Wire(fake_server.url) as wire:
        wire.send(signed(BODY))
        refused = wire.answer()
        table.error = None
        wire.send(signed(BODY))
        taken = wire.answer()

    assert (refused.status, int(refused.headers["retry-after"]) > 0, taken.status) == (503, True, 200)
    assert fake_server.count("not_stored") == 1


def test_a_store_that_hangs_is_503(fake_server: WebhookServer, table: FakeWebhookTable) -> None:
    """A database that hangs is answered 503 before Meld's timeout."""
    table.gate.clear()

    (answer,) = send(fake_server, signed(BODY))

    assert (answer.status, "retry-after" in answer.headers) == (503, True)


def test_a_full_inbox_is_503(table: FakeWebhookTable) -> None:
    """A full inbox is answered 503 at once."""

    async def full(_delivery: object) -> None:
        raise OutOfReachError("the inbox is full")

    with serve_webhooks(full) as decrypted_body:
        (answer,) = send(decrypted_body, signed(BODY))

    assert (answer.status, "retry-after" in answer.headers) == (503, True)


def test_an_inbox_that_is_stopping_is_503(table: FakeWebhookTable) -> None:
    """A stopping process refuses what it might not store."""
    with running_inbox(table) as store, serve_webhooks(store.put) as decrypted_body:
        store.stop()
        (answer,) = send(decrypted_body, signed(BODY))

    assert (answer.status, "retry-after" in answer.headers, table.stored) == (503, True, [])


def test_an_incomplete_body_is_not_stored(fake_server: WebhookServer, table: FakeWebhookTable) -> None:
    """An incomplete body is not stored."""
    with Wire(fake_server.url) as wire:
        wire.send(signed(BODY)[:-5])
        assert wire.is_silent(0.05)

    assert eventually(lambda: fake_server.count("disconnected")) == 1
    assert table.stored == []


def test_a_disconnect_before_the_response_does_not_prevent_storage(
    fake_server: WebhookServer, table: FakeWebhookTable
) -> None:
    """A complete body is stored although the client has disconnected."""
    table.gate.clear()
    with Wire(fake_server.url) as wire:
        wire.send(signed(BODY))
        eventually(lambda: table.sizes)
    table.gate.set()

    assert eventually(lambda: [each.body for each in table.stored]) == [BODY]


@pytest.mark.parametrize("lines", [["Meld-Signature: x", TIME], []], ids=["wrong", "missing"])
def test_a_valid_request_after_a_401_is_accepted(
    fake_server: WebhookServer, table: FakeWebhookTable, lines: list[str]
) -> None:
    """After a refused signature the connection stays usable."""
    answers = send(fake_server, request(BODY, *lines), signed(BODY))

    assert ([answer.status for answer in answers], len(table.stored)) == ([401, 200], 1)


def hidden(*lines: str, beyond: int = 0) -> bytes:
    """Return a request whose body ends with a whole, signed request."""
    return request(b"x" * beyond + signed(BODY), *lines)


@pytest.mark.parametrize(
    ("outer", "status"),
    [
        pytest.param(hidden(), 401, id="401"),
        pytest.param(hidden("Content-Encoding: gzip"), 415, id="415"),
        pytest.param(hidden(beyond=MAX_BODY_BYTES), 413, id="413"),
        pytest.param(hidden("Content-Length: 5000"), 408, id="408"),
    ],
)
def test_a_request_inside_a_refused_body_is_not_processed(
    fake_server: WebhookServer, table: FakeWebhookTable, outer: bytes, status: int
) -> None:
    """The body of a refused request is never parsed as the next request."""
    with Wire(fake_server.url) as wire:
        wire.send_until_closed(outer)
        answer = wire.answer()
        wire.is_silent(0.1)

    assert (answer.status, table.stored) == (status, [])


@pytest.mark.parametrize(
    ("outer", "status"),
    [
        pytest.param(request(BODY, "Content-Encoding: gzip"), 415, id="415"),
        pytest.param(request(b"x" * (MAX_BODY_BYTES + 1)), 413, id="413"),
    ],
)
def test_nothing_is_processed_after_a_closing_response(
    fake_server: WebhookServer, table: FakeWebhookTable, outer: bytes, status: int
) -> None:
    """After a response with ``Connection: close`` no pipelined request is processed."""
    with Wire(fake_server.url) as wire:
        wire.send_until_closed(outer + signed(BODY))
        answer = wire.answer()

        assert (answer.status, answer.headers["connection"], wire.is_closed()) == (status, "close", True)
    assert table.stored == []


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        pytest.param(request(BODY, "User-Agent: x", "Cookie: secret"), "missing", id="missing"),
        pytest.param(request(BODY, "Meld-Signature: x", TIME), "wrong", id="wrong"),
        pytest.param(
            request(BODY, "Meld-Signature: x", "Meld-Signature-Timestamp: now"), "unreadable_time", id="unreadable"
        ),
        pytest.param(signed(BODY, "Content-Encoding: br"), "encoded", id="encoded"),
        pytest.param(signed(body_of(MAX_BODY_BYTES + 1)), "too_large", id="too large"),
    ],
)
def test_refused_requests_are_passed_to_the_rejection_queue(
    fake_server: WebhookServer, refused: list[RefusedWebhook], sent: bytes, reason: str
) -> None:
    """With the reason, the body, the selected headers and the time of the check."""
    with Wire(fake_server.url) as wire:
        wire.send_until_closed(sent)
        wire.answer()

    (one,) = refused
    body = sent.partition(b"\r\n\r\n")[2]
    assert (one.reason, one.size) == (reason, len(body))
    # Of a body that is too long, the rest is discarded while it is received.
    assert body.startswith(one.body)
    assert len(one.body) >= min(len(body), MAX_REJECTED_BODY_BYTES)
    assert one.received_at == SIGNED_AT + timedelta(seconds=1)
    assert set(one.headers) <= {"meld-signature", "meld-signature-timestamp", "user-agent"}


def test_other_requests_are_not_passed_to_the_rejection_queue(
    fake_server: WebhookServer, table: FakeWebhookTable, refused: list[RefusedWebhook]
) -> None:
    """Neither stored webhooks nor those answered 503."""
    send(fake_server, signed(BODY))
    table.error = OutOfReachError("The database does not answer.")
    send(fake_server, signed(BODY))

    assert refused == []


JUNK = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"\x00", id="NUL"),
    pytest.param(
        b'{"eventId":"a\\u0000b","eventType":"\\u0000","payload":{"connectionId":"\\u0000"}}', id="escaped NUL"
    ),
    pytest.param(b'{"eventId":"\\ud800","eventType":"\\udfff","accountId":"\\ud800"}', id="lone surrogates"),
    pytest.param(b'{"eventId":NaN,"payload":{"connectionId":NaN}}', id="NaN"),
    pytest.param(b'{"eventId":1e999,"x":-1e999}', id="1e999"),
    pytest.param(b'{"eventId":' + b"7" * 5000 + b"}", id="5,000 digits"),
    pytest.param(b"[" * 100_000 + b"]" * 100_000, id="100,000 brackets"),
    pytest.param(b'{"payload":' * 50_000 + b"1" + b"}" * 50_000, id="50,000 objects"),
    pytest.param(b"[]", id="a list"),
    pytest.param(b'"text"', id="text"),
    pytest.param(b"null", id="null"),
    pytest.param(b"\xff\xfe\xfd", id="no text"),
    pytest.param(b"\xef\xbb\xbf{}", id="a BOM"),
    pytest.param(
        b'{"eventId":"' + b"e" * 100_000 + b'","payload":{"connectionId":"' + b"c" * 100_000 + b'"}}', id="long ids"
    ),
    pytest.param(b'{"eventId":"e","timestamp":"9999-12-31T23:59:59-23:00"}', id="beyond the calendar"),
    pytest.param(b'{"eventId":"e","timestamp":"0001-01-01T00:00:00+23:00"}', id="before the calendar"),
    pytest.param(b'{"eventType":["a"],"eventId":{},"payload":[],"timestamp":1}', id="wrong types"),
    pytest.param(bytes(range(256)) * 100, id="every byte"),
]


@pytest.mark.parametrize("junk", JUNK)
def test_signed_junk_is_stored(database_server: WebhookServer, database: Database, junk: bytes) -> None:
    """Any signed body is answered 200 and stored byte for byte, also the second time."""
    answers = send(database_server, signed(junk), signed(junk), signed(BODY))

    stored, other = webhooks(database)
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert (decrypted_body(stored), stored.deliveries, stored.connection_id) == (junk, 2, None)
    assert stored.ignored_at is not None
    assert other.event_id == "e1"


def test_all_junk_at_once_is_stored(database_server: WebhookServer, database: Database) -> None:
    """Also in one batch with others."""
    bodies = [bytes(case.values[0]) for case in JUNK]  # type: ignore[call-overload]
    answers = send(database_server, *map(signed, bodies))

    assert [answer.status for answer in answers] == [200] * len(JUNK)
    # Two of them bear one event id: the second is a repeat of the first.
    assert len({decrypted_body(webhook) for webhook in webhooks(database)}) == len(JUNK) - 1


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods_are_405(fake_server: WebhookServer, table: FakeWebhookTable, method: str) -> None:
    """The route supports POST only."""
    (answer,) = send(fake_server, signed(BODY).replace(b"POST", method.encode(), 1))

    assert (answer.status, table.stored) == (405, [])


def test_metrics_name_every_result_once(fake_server: WebhookServer, table: FakeWebhookTable) -> None:
    """Every request is counted exactly once, by its result."""
    send(fake_server, signed(BODY), request(BODY), signed(b"[]"), signed(BODY, "Content-Encoding: br"))

    results = ("stored", "missing", "encoded", "wrong", "not_stored")
    assert [fake_server.count(result) for result in results] == [2, 1, 1, 0, 0]
    assert json.dumps([each.hint.event_id for each in table.stored]) == '["e1", null]'
