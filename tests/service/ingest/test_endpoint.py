import http.client
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from sqlmodel import col, select

from runtime.database import Database
from runtime.errors import OutOfReachError
from schemas.meld.webhook import MAX_REJECTED_BODY_BYTES, RefusedWebhook
from schemas.tables import ReadRequestRow, WebhookRow
from service.ingest.endpoint import MAX_BODY_BYTES, MAX_DISCARDED_BYTES, MAX_HEADER_CHARACTERS
from tests.meldwatch.process.raw_http_client import Answer, Wire, request
from tests.service.ingest.webhook_server import Door, Shelf, chunked, door, inbox, signed
from tests.support.meld_signature import SECRET, SIGNED_AT, TIMESTAMP, sign
from tests.support.polling import eventually
from tests.support.webhook_factory import opened

BODY = b'{"eventType":"WEBHOOK_TEST","eventId":"e1","payload":{"connectionId":"c1"}}'
TIME = f"Meld-Signature-Timestamp: {TIMESTAMP.decode()}"


@pytest.fixture
def shelf() -> Shelf:
    """Where webhooks end up in memory."""
    return Shelf()


@pytest.fixture
def refused() -> list[RefusedWebhook]:
    """What was refused."""
    return []


@pytest.fixture
def shelf_door(shelf: Shelf, refused: list[RefusedWebhook]) -> Iterator[Door]:
    """The route before the shelf, with little patience for slow bodies."""
    with (
        inbox(shelf, answer_seconds=0.3) as store,
        door(store.put, reject=refused.append, body_seconds=0.4) as opened,
    ):
        yield opened
        shelf.gate.set()


@pytest.fixture
def database_door(database: Database) -> Iterator[Door]:
    """The route before a real database."""
    with inbox(database) as store, door(store.put) as opened:
        yield opened


def send(door: Door, *requests: bytes) -> list[Answer]:
    """Send requests at once, over one connection, and return as many answers."""
    with Wire(door.url) as wire:
        wire.send(b"".join(requests))
        return [wire.answer() for _ in requests]


def webhooks(database: Database) -> list[WebhookRow]:
    with database.read() as session:
        return list(session.exec(select(WebhookRow).order_by(col(WebhookRow.id))).all())


def body_of(size: int) -> bytes:
    """Return a readable webhook of this many bytes."""
    return BODY[:-1] + b',"x":"' + b"y" * (size - len(BODY) - 7) + b'"}'


def test_new_and_repeated_webhooks_are_200_with_nothing_in_it(database_door: Door, database: Database) -> None:
    """Exactly 200 and an empty body, whether the webhook is new or came before; the repeat is counted."""
    answers = send(database_door, *[signed(BODY)] * 3)

    (stored,) = webhooks(database)
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"")] * 3
    assert (stored.event_id, opened(stored), stored.deliveries) == ("e1", BODY, 3)
    assert database_door.count("stored") == 3


def test_what_is_stored_is_what_was_signed(database_door: Door, database: Database) -> None:
    """Body, URL and time are kept as they were verified, and the headers that are evidence with them."""
    lines = ["Meld-Retry-Count: 3", "Meld-Retry-Reason: HTTP error: 503", "User-Agent: Meld\xe9", "Cookie: secret"]
    send(database_door, signed(BODY, *lines, "Authorization: Bearer secret"))

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


def test_a_stored_webhook_owes_a_read(database_door: Door, database: Database) -> None:
    """The 200 says that the connection's job is raised as well."""
    send(database_door, signed(BODY))

    with database.read() as session:
        job = session.exec(select(ReadRequestRow)).one()
    assert (job.connection_id, job.requested, job.completed, job.trigger) == ("c1", 1, 0, "webhook")


def test_kept_headers_are_bounded(shelf_door: Door, shelf: Shelf) -> None:
    """A header of thousands of characters is kept in part."""
    send(shelf_door, signed(BODY, "User-Agent: " + "x" * 10_000))

    assert shelf.kept[0].headers["user-agent"] == "x" * MAX_HEADER_CHARACTERS


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
def test_a_bad_signature_is_401(shelf_door: Door, shelf: Shelf, lines: list[str], reason: str) -> None:
    """Nothing that is not signed is stored; the sender is not told why, the operator is."""
    (answer,) = send(shelf_door, request(BODY, *lines))

    assert (answer.status, shelf.kept, shelf_door.count(reason)) == (401, [], 1)
    assert reason.encode() not in answer.body
    assert SECRET.encode() not in answer.body
    assert sign(BODY) not in answer.body


@pytest.mark.parametrize(
    ("timestamp", "reason"),
    [(b"2022-05-20T00:00:00Z", "too_old"), (b"1653000000", "too_old"), (b"2022-05-26T20:40:00Z", "in_the_future")],
)
def test_a_time_outside_the_window_is_401(shelf_door: Door, shelf: Shelf, timestamp: bytes, reason: str) -> None:
    """A good signature does not help where its time lies outside the window."""
    signature = sign(BODY, timestamp=timestamp).decode()
    lines = [f"Meld-Signature: {signature}", f"Meld-Signature-Timestamp: {timestamp.decode()}"]

    (answer,) = send(shelf_door, request(BODY, *lines))

    assert (answer.status, shelf.kept, shelf_door.count(reason)) == (401, [], 1)


def test_late_webhooks_are_counted(shelf_door: Door) -> None:
    """One that was signed hours ago is stored, and counted as late."""
    timestamp = b"2022-05-26T10:00:00Z"
    lines = [f"Meld-Signature: {sign(BODY, timestamp=timestamp).decode()}"]

    (answer,) = send(shelf_door, request(BODY, *lines, f"Meld-Signature-Timestamp: {timestamp.decode()}"))

    late = shelf_door.metrics.registry.get_sample_value("meldwatch_webhooks_signed_long_ago_total")
    assert (answer.status, late) == (200, 1)


@pytest.mark.parametrize("size", [MAX_BODY_BYTES - 1, MAX_BODY_BYTES])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunks"])
def test_a_body_of_one_mebibyte_passes(database_door: Door, database: Database, size: int, is_chunked: bool) -> None:  # noqa: FBT001 - drawn
    """Exactly 1 MiB is stored, byte for byte."""
    body = body_of(size)
    (answer,) = send(database_door, chunked(body, 10_000) if is_chunked else signed(body))

    (stored,) = webhooks(database)
    assert (answer.status, len(opened(stored)), opened(stored) == body) == (200, size, True)


def ordinary_post(url: str, body: bytes, headers: dict[str, str], *, is_chunked: bool) -> tuple[int, str | None]:
    """Send as the standard library does: the whole body first, and only then is the answer read."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=4)
    pieces = iter([body[start : start + 65536] for start in range(0, len(body), 65536)])
    connection.request("POST", "/webhooks/meld", pieces if is_chunked else body, headers, encode_chunked=is_chunked)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, answer.getheader("connection")


@pytest.mark.parametrize("size", [MAX_BODY_BYTES + 1, 8 * MAX_BODY_BYTES])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunks"])
def test_a_longer_body_is_413(shelf_door: Door, shelf: Shelf, size: int, is_chunked: bool) -> None:  # noqa: FBT001 - drawn
    """An ordinary client, which sends the whole body before it reads, gets to see the 413."""
    body = body_of(size)
    framing = {"Transfer-Encoding": "chunked"} if is_chunked else {"Content-Length": str(size)}
    headers = {"Meld-Signature": sign(body).decode(), "Meld-Signature-Timestamp": TIMESTAMP.decode(), **framing}

    assert ordinary_post(shelf_door.url, body, headers, is_chunked=is_chunked) == (413, "close")
    assert (shelf.kept, shelf_door.count("too_large")) == ([], 1)


def test_an_ordinary_client_sees_the_415(shelf_door: Door) -> None:
    """So it does where the body is encoded: the answer must not be lost with what was still on its way."""
    headers = {"Content-Encoding": "gzip"}

    assert ordinary_post(shelf_door.url, body_of(MAX_BODY_BYTES), headers, is_chunked=False) == (415, "close")


def test_an_endless_body_ends(shelf_door: Door) -> None:
    """Who sends far more than is drained is cut off."""
    with Wire(shelf_door.url) as wire:
        wire.send(signed(BODY, f"Content-Length: {100 * MAX_DISCARDED_BYTES}"))
        wire.send_what_is_taken(b"x" * 2 * MAX_DISCARDED_BYTES)

        assert eventually(lambda: not wire.is_taking(), seconds=3)
    assert shelf_door.count("too_large") + shelf_door.count("slow") == 1


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("is_trickling", [False, True], ids=["stalled", "trickling"])
def test_a_slow_body_is_408(shelf_door: Door, shelf: Shelf, framing: str, is_trickling: bool) -> None:  # noqa: FBT001 - drawn
    """The whole body has to be in within its time, however it comes."""
    with Wire(shelf_door.url) as wire:
        wire.send(signed(b"", framing))
        sent = 0
        while is_trickling and wire.is_silent(0.05):
            wire.send(b"x" if "Length" in framing else b"1\r\nx\r\n")
            sent += 1
            assert sent < 50
        answer = wire.answer()

        assert (answer.status, answer.headers["connection"], wire.is_closed()) == (408, "close", True)
    assert (shelf.kept, shelf_door.count("slow")) == ([], 1)


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "deflate", "zstd", "identity, gzip", "x"])
def test_an_encoded_body_is_415(shelf_door: Door, shelf: Shelf, encoding: str) -> None:
    """A body that would have to be decoded is refused, signed or not."""
    (answer,) = send(shelf_door, signed(BODY, f"Content-Encoding: {encoding}"))

    assert (answer.status, shelf.kept, shelf_door.count("encoded")) == (415, [], 1)


@pytest.mark.parametrize("encoding", ["identity", "Identity"])
def test_identity_is_no_encoding(shelf_door: Door, encoding: str) -> None:
    """``identity`` says that the body is as it is."""
    (answer,) = send(shelf_door, signed(BODY, f"Content-Encoding: {encoding}"))

    assert answer.status == 200


@pytest.mark.parametrize("type_", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"])
def test_the_content_type_does_not_matter(shelf_door: Door, shelf: Shelf, type_: str) -> None:
    """The signature covers the body, not its type, so the type decides nothing."""
    (answer,) = send(shelf_door, signed(BODY, f"Content-Type: {type_}"))

    assert (answer.status, shelf.kept[0].body) == (200, BODY)


def test_a_store_that_fails_is_503(shelf_door: Door, shelf: Shelf) -> None:
    """What could not be stored is not answered 200: Meld is told to come again, and does so over one connection."""
    shelf.error = OutOfReachError("The database does not answer.")
    with Wire(shelf_door.url) as wire:
        wire.send(signed(BODY))
        refused = wire.answer()
        shelf.error = None
        wire.send(signed(BODY))
        taken = wire.answer()

    assert (refused.status, int(refused.headers["retry-after"]) > 0, taken.status) == (503, True, 200)
    assert shelf_door.count("not_stored") == 1


def test_a_store_that_hangs_is_503(shelf_door: Door, shelf: Shelf) -> None:
    """A database that says nothing is no reason to let Meld's patience run out."""
    shelf.gate.clear()

    (answer,) = send(shelf_door, signed(BODY))

    assert (answer.status, "retry-after" in answer.headers) == (503, True)


def test_a_full_inbox_is_503(shelf: Shelf) -> None:
    """Where too many wait already, Meld is told at once."""

    async def full(_delivery: object) -> None:
        raise OutOfReachError("the inbox is full")

    with door(full) as opened:
        (answer,) = send(opened, signed(BODY))

    assert (answer.status, "retry-after" in answer.headers) == (503, True)


def test_an_inbox_that_is_stopping_is_503(shelf: Shelf) -> None:
    """A process that ends takes nothing that it might not store."""
    with inbox(shelf) as store, door(store.put) as opened:
        store.stop()
        (answer,) = send(opened, signed(BODY))

    assert (answer.status, "retry-after" in answer.headers, shelf.kept) == (503, True, [])


def test_a_sender_that_leaves_in_the_middle_leaves_nothing(shelf_door: Door, shelf: Shelf) -> None:
    """Half a body is no webhook."""
    with Wire(shelf_door.url) as wire:
        wire.send(signed(BODY)[:-5])
        assert wire.is_silent(0.05)

    assert eventually(lambda: shelf_door.count("disconnected")) == 1
    assert shelf.kept == []


def test_a_sender_that_leaves_before_the_answer_is_stored(shelf_door: Door, shelf: Shelf) -> None:
    """A whole body is stored, also where nobody waits for the answer any more."""
    shelf.gate.clear()
    with Wire(shelf_door.url) as wire:
        wire.send(signed(BODY))
        eventually(lambda: shelf.sizes)
    shelf.gate.set()

    assert eventually(lambda: [each.body for each in shelf.kept]) == [BODY]


@pytest.mark.parametrize("lines", [["Meld-Signature: x", TIME], []], ids=["wrong", "missing"])
def test_a_good_request_behind_a_401_is_taken(shelf_door: Door, shelf: Shelf, lines: list[str]) -> None:
    """A refused signature says nothing about the next request on the connection."""
    answers = send(shelf_door, request(BODY, *lines), signed(BODY))

    assert ([answer.status for answer in answers], len(shelf.kept)) == ([401, 200], 1)


def hidden(*lines: str, beyond: int = 0) -> bytes:
    """Return a request that has a whole, signed request in its body, at the end of so many other bytes."""
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
def test_a_request_inside_a_refused_body_stays_inside(
    shelf_door: Door, shelf: Shelf, outer: bytes, status: int
) -> None:
    """The body of a refused request is never taken for the next request, signed as it may be."""
    with Wire(shelf_door.url) as wire:
        wire.send_what_is_taken(outer)
        answer = wire.answer()
        wire.is_silent(0.1)

    assert (answer.status, shelf.kept) == (status, [])


@pytest.mark.parametrize(
    ("outer", "status"),
    [
        pytest.param(request(BODY, "Content-Encoding: gzip"), 415, id="415"),
        pytest.param(request(b"x" * (MAX_BODY_BYTES + 1)), 413, id="413"),
    ],
)
def test_nothing_is_taken_behind_a_closing_refusal(shelf_door: Door, shelf: Shelf, outer: bytes, status: int) -> None:
    """An answer that says ``Connection: close`` is the last: what was sent behind it is not begun."""
    with Wire(shelf_door.url) as wire:
        wire.send_what_is_taken(outer + signed(BODY))
        answer = wire.answer()

        assert (answer.status, answer.headers["connection"], wire.is_closed()) == (status, "close", True)
    assert shelf.kept == []


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
def test_what_is_refused_is_handed_on(
    shelf_door: Door, refused: list[RefusedWebhook], sent: bytes, reason: str
) -> None:
    """With the reason, the beginning of its body and the headers that are evidence, at the time it was checked with."""
    with Wire(shelf_door.url) as wire:
        wire.send_what_is_taken(sent)
        wire.answer()

    (one,) = refused
    body = sent.partition(b"\r\n\r\n")[2]
    assert (one.reason, one.body, one.size) == (reason, body[:MAX_REJECTED_BODY_BYTES], len(body))
    assert one.received_at == SIGNED_AT + timedelta(seconds=1)
    assert set(one.headers) <= {"meld-signature", "meld-signature-timestamp", "user-agent"}


def test_what_is_not_refused_is_handed_to_nobody_else(
    shelf_door: Door, shelf: Shelf, refused: list[RefusedWebhook]
) -> None:
    """Neither what is stored, nor what is told to come again."""
    send(shelf_door, signed(BODY))
    shelf.error = OutOfReachError("The database does not answer.")
    send(shelf_door, signed(BODY))

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
def test_signed_junk_is_stored_and_harms_nobody(database_door: Door, database: Database, junk: bytes) -> None:
    """Whatever Meld signs is answered 200 and kept byte for byte, also the second time; and the service lives on."""
    answers = send(database_door, signed(junk), signed(junk), signed(BODY))

    stored, other = webhooks(database)
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert (opened(stored), stored.deliveries, stored.connection_id) == (junk, 2, None)
    assert stored.ignored_at is not None
    assert other.event_id == "e1"


def test_all_junk_at_once_is_stored(database_door: Door, database: Database) -> None:
    """So it is in one batch with others."""
    bodies = [bytes(case.values[0]) for case in JUNK]  # type: ignore[call-overload]
    answers = send(database_door, *map(signed, bodies))

    assert [answer.status for answer in answers] == [200] * len(JUNK)
    # Two of them bear one event id: the second is a repeat of the first.
    assert len({opened(webhook) for webhook in webhooks(database)}) == len(JUNK) - 1


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods_are_405(shelf_door: Door, shelf: Shelf, method: str) -> None:
    """The route knows POST alone."""
    (answer,) = send(shelf_door, signed(BODY).replace(b"POST", method.encode(), 1))

    assert (answer.status, shelf.kept) == (405, [])


def test_metrics_name_every_result_once(shelf_door: Door, shelf: Shelf) -> None:
    """Every request is counted exactly once, by what became of it."""
    send(shelf_door, signed(BODY), request(BODY), signed(b"[]"), signed(BODY, "Content-Encoding: br"))

    results = ("stored", "missing", "encoded", "wrong", "not_stored")
    assert [shelf_door.count(result) for result in results] == [2, 1, 1, 0, 0]
    assert json.dumps([each.hint.event_id for each in shelf.kept]) == '["e1", null]'
