import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from runtime.net.meld_client import MAX_EXCERPT_CHARACTERS, MAX_RETRY_AFTER_SECONDS, PAGE_LIMIT, MeldClient
from runtime.settings import Settings
from schemas.meld.connection import MAX_ID_LENGTH, MAX_INDEXED_BYTES
from schemas.meld.read_outcome import (
    Absent,
    Found,
    ListPage,
    PageOutcome,
    ReadOutcome,
    Refused,
    Throttled,
    Unavailable,
    Unreadable,
)
from tests.runtime.net.raw_socket_server import Handler, Loopback, Peer, answer, repeating, serving
from tests.support.servers import free_ports

KEY = "sk-live+Zm9v/YmFy==hidden"
NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
CONNECTION: dict[str, Any] = {
    "id": "c1",
    "key": "the-list's-own",
    "accountId": "acct",
    "customerId": "cust",
    "externalCustomerId": "ext",
    "institutionId": "inst",
    "institutionName": "Basic Bank",
    "status": "ACTIVE",
    "statusReason": None,
    "activeDuplicateConnectionId": "c1",
    "duplicateConnectionIds": ["c2", "c1", "c2", ""],
    "products": ["BALANCES"],
    "optionalProducts": [],
    "regions": ["US"],
    "serviceProviderDetails": {"serviceProvider": "PLAID", "itemId": "item", "accessToken": "access-sandbox-hidden"},
    "createdAt": "2026-01-02T03:04:05.678901234Z",
    "successfullyAggregatedAt": None,
    "somethingNew": {"a": [1]},
}


@contextmanager
def client(url: str, *, seconds: float = 10, version: str | None = None) -> Iterator[MeldClient]:
    meld = MeldClient(
        url=url,
        authorization=SecretStr(f"BASIC {KEY}"),
        version=version,
        timeout_seconds=seconds,
        connections=2,
        clock=lambda: NOON,
    )
    yield meld
    meld.close()


@contextmanager
def meld_that(handler: Handler, **options: Any) -> Iterator[tuple[MeldClient, Loopback]]:
    with serving(handler) as server, client(server.url, **options) as meld:
        yield meld, server


def read(raw: bytes, connection_id: str = "c1") -> ReadOutcome:
    with meld_that(repeating(raw)) as (meld, _):
        return meld.read(connection_id)


def read_document(document: object, connection_id: str = "c1") -> ReadOutcome:
    return read(answer(200, json.dumps(document).encode()), connection_id)


def page(raw: bytes) -> PageOutcome:
    with meld_that(repeating(raw)) as (meld, _):
        return meld.page()


def page_of(*keys: str, remaining: object = ..., **more: object) -> PageOutcome:
    document: dict[str, object] = {"connections": [{**CONNECTION, "id": key, "key": key} for key in keys], **more}
    if remaining is not ...:
        document["remaining"] = remaining
    return page(answer(200, json.dumps(document).encode()))


FULL = [f"k{number}" for number in range(PAGE_LIMIT)]


def test_a_connection_is_found() -> None:
    """Every field of an answer is where it belongs, whatever else the answer has."""
    outcome = read_document(CONNECTION)

    assert isinstance(outcome, Found)
    found = outcome.snapshot
    assert (found.id, found.account_id, found.customer_id) == ("c1", "acct", "cust")
    assert (found.external_customer_id, found.institution_id) == ("ext", "inst")
    assert (found.institution_name, found.status, found.status_reason) == ("Basic Bank", "ACTIVE", None)
    assert (found.primary_duplicate_id, found.duplicate_ids) == ("c1", ("c2",))
    assert (found.products, found.optional_products, found.regions) == (("BALANCES",), (), ("US",))
    assert found.service_provider == "PLAID"
    assert found.created_at == datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    assert found.aggregated_at is None


def test_the_whole_answer_is_kept_without_secrets() -> None:
    """Fields that nobody knows yet are kept; credentials and the list's own key are not."""
    outcome = read_document(CONNECTION)

    expected = {name: value for name, value in CONNECTION.items() if name != "key"}
    expected["serviceProviderDetails"] = {"serviceProvider": "PLAID", "itemId": "item"}
    assert isinstance(outcome, Found)
    assert outcome.snapshot.document == expected
    assert "hidden" not in repr(outcome)


def test_a_little_is_enough() -> None:
    """An id and a status make a connection: null, absent and empty mean the same."""
    bare = read_document({"id": "c1", "status": "NEW_STATUS"})
    nulls = read_document(dict.fromkeys(CONNECTION, None) | {"id": "c1", "status": "NEW_STATUS"})

    assert isinstance(bare, Found)
    assert isinstance(nulls, Found)
    assert bare.snapshot.model_dump(exclude={"document"}) == nulls.snapshot.model_dump(exclude={"document"})
    assert (bare.snapshot.duplicate_ids, bare.snapshot.primary_duplicate_id) == ((), None)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("customerId", 5),
        ("institutionName", {"a": 1}),
        ("products", "BALANCES"),
        ("regions", {"US": True}),
        ("products", [1, None, "BALANCES"]),
        ("serviceProviderDetails", "PLAID"),
        ("serviceProviderDetails", {"serviceProvider": 5}),
        ("createdAt", "yesterday"),
        ("createdAt", 1767323045),
        ("createdAt", "2026-01-02T03:04:05"),
        ("successfullyAggregatedAt", {}),
    ],
)
def test_what_the_truth_does_not_hang_on_may_be_odd(name: str, value: object) -> None:
    """A wrong type in a field that only describes leaves the connection readable, and the field in the document."""
    outcome = read_document({**CONNECTION, name: value})

    assert isinstance(outcome, Found)
    assert outcome.snapshot.document[name] == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", None),
        ("status", ""),
        ("status", 5),
        ("status", ["ACTIVE"]),
        ("statusReason", 5),
        ("status", "S" * (MAX_INDEXED_BYTES + 1)),
        ("activeDuplicateConnectionId", 5),
        ("activeDuplicateConnectionId", "c" * (MAX_ID_LENGTH + 1)),
        ("duplicateConnectionIds", "c2"),
        ("duplicateConnectionIds", {"c2": 1}),
        ("id", None),
        ("id", ""),
        ("id", 5),
        ("id", "c" * (MAX_ID_LENGTH + 1)),
        ("id", "c\x00"),
        ("id", "c\ud800"),
        ("id", "c\n"),
    ],
)
def test_what_the_truth_hangs_on_must_be_right(name: str, value: object) -> None:
    """A wrong type in a field that events hang on makes the answer unreadable, by the field's name."""
    outcome = read_document({**CONNECTION, name: value})

    assert outcome == Unreadable(f"the answer is no connection: see {name}")


@pytest.mark.parametrize("name", ["customerId", "externalCustomerId", "institutionId"])
@pytest.mark.parametrize("character", ["x", "\U0001f600"])
def test_what_no_index_takes_is_left_to_the_document(name: str, character: str) -> None:
    """Connections are looked up by these; a value that is too long for that leaves the connection readable."""
    longest = character * (MAX_INDEXED_BYTES // len(character.encode()))
    values = {"customerId": "customer_id", "externalCustomerId": "external_customer_id"}

    found = [read_document({**CONNECTION, name: value}) for value in (longest, longest + character)]

    snapshots = [outcome.snapshot for outcome in found if isinstance(outcome, Found)]
    assert [getattr(each, values.get(name, "institution_id")) for each in snapshots] == [longest, None]
    assert snapshots[1].document[name] == longest + character


def test_what_is_no_id_is_nobody() -> None:
    """Entries of the list of duplicates that can name no connection are left out, as those that are no text."""
    listed = ["c2", None, 5, "c" * (MAX_ID_LENGTH + 1), "c\x003", "c4"]

    outcome = read_document({**CONNECTION, "duplicateConnectionIds": listed})

    assert isinstance(outcome, Found)
    assert outcome.snapshot.duplicate_ids == ("c2", "c4")


@pytest.mark.parametrize("name", ["id", "status"])
def test_what_the_truth_hangs_on_must_be_there(name: str) -> None:
    """An answer without id or status is unreadable."""
    outcome = read_document({key: value for key, value in CONNECTION.items() if key != name})

    assert outcome == Unreadable(f"the answer is no connection: see {name}")


def test_another_connections_answer_is_refused() -> None:
    """An answer about another connection changes nothing of this one."""
    assert read_document({**CONNECTION, "id": "c2"}) == Unreadable("the answer is another connection's")


@pytest.mark.parametrize(
    ("raw", "outcome"),
    [
        (answer(404), Absent()),
        (answer(404, b"<html>not here</html>"), Absent()),
        (answer(410), Absent()),
        (answer(401, b"{}"), Refused("Meld answered 401")),
        (answer(403), Refused("Meld answered 403")),
        (answer(429), Throttled(None)),
        (answer(429, b"", {"Retry-After": "7"}), Throttled(7.0)),
        (answer(429, b"", {"Retry-After": " 0 "}), Throttled(0.0)),
        (answer(429, b"", {"Retry-After": "Fri, 02 Jan 2026 12:00:30 GMT"}), Throttled(30.0)),
        (answer(429, b"", {"Retry-After": "Fri, 02 Jan 2026 12:00:30 -0000"}), Throttled(30.0)),
        (answer(429, b"", {"Retry-After": "Thu, 01 Jan 2026 12:00:30 GMT"}), Throttled(0.0)),
        (answer(429, b"", {"Retry-After": "999999"}), Throttled(MAX_RETRY_AFTER_SECONDS)),
        (answer(429, b"", {"Retry-After": "9" * 400}), Throttled(MAX_RETRY_AFTER_SECONDS)),
        (answer(429, b"", {"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}), Throttled(MAX_RETRY_AFTER_SECONDS)),
        (answer(429, b"", {"Retry-After": "soon"}), Throttled(None)),
        (answer(429, b"", {"Retry-After": "1.5"}), Throttled(None)),
        (answer(429, b"", {"Retry-After": "-1"}), Throttled(None)),
        (answer(429, b"", {"Retry-After": "Fri, 02 Jan 20266 12:00:30 GMT"}), Throttled(None)),
        (answer(500), Unavailable("Meld answered 500")),
        (answer(503, b"", {"Retry-After": "9"}), Unavailable("Meld answered 503", 9.0)),
        (answer(400), Unavailable("Meld answered 400")),
        (answer(302, b"", {"Location": "/elsewhere"}), Unavailable("Meld answered 302")),
        (answer(204), Unavailable("Meld answered 204")),
        (answer(200), Unreadable("the answer is not JSON")),
        (answer(200, b"[]"), Unreadable("the answer is JSON but no object")),
        (answer(200, b"null"), Unreadable("the answer is JSON but no object")),
        (answer(200, b"{}"), Unreadable("the answer is no connection: see id, status")),
        (answer(200, b"<html>Hello</html>"), Unreadable("the answer is not JSON", "<html>Hello</html>")),
        (
            answer(200, b"\x1f\x8b", {"Content-Encoding": "gzip"}),
            Unreadable("the answer is compressed although that was not asked for"),
        ),
    ],
)
def test_every_answer_has_its_outcome(raw: bytes, outcome: ReadOutcome) -> None:
    """What Meld answers is told as what it means, and no answer is an exception."""
    assert read(raw) == outcome


@pytest.mark.parametrize("status", [401, 403, 429, 500, 302])
def test_a_page_has_the_same_outcomes(status: int) -> None:
    """A page of the list is throttled, refused and unavailable as a read is."""
    assert page(answer(status)) == read(answer(status))


def silent(peer: Peer) -> None:
    peer.hang()


def cut(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{")


def test_a_meld_that_is_silent_is_unavailable() -> None:
    """A read that ran out of time says so."""
    with meld_that(silent, seconds=0.3) as (meld, _):
        assert meld.read("c1") == Unavailable("no whole answer within 0.3 s")


def test_a_meld_that_breaks_off_is_unavailable() -> None:
    """A read whose connection broke says so."""
    with meld_that(cut) as (meld, _):
        assert meld.read("c1") == Unavailable("connection failed (RemoteProtocolError)")


def test_a_meld_that_is_not_there_is_unavailable() -> None:
    """A read that found nobody says so."""
    with client(f"http://127.0.0.1:{free_ports(1)[0]}") as meld:
        assert meld.read("c1") == Unavailable("connection failed (ConnectError)")


def test_an_answer_that_is_too_large_is_unreadable() -> None:
    """An answer beyond all measure is not read to its end."""
    body = b'{"id": "c1", "status": "ACTIVE", "padding": "' + b"x" * 5_000_000 + b'"}'

    assert read(answer(200, body)) == Unreadable("the answer is larger than allowed")


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"NaN", b"Infinity", b"9" * 5_000])
def test_numbers_beyond_measure_become_null(number: bytes) -> None:
    """A number that could not be stored does not make the answer unreadable."""
    outcome = read(answer(200, b'{"id": "c1", "status": "ACTIVE", "odd": ' + number + b"}"))

    assert isinstance(outcome, Found)
    assert outcome.snapshot.document["odd"] is None


def test_strange_characters_are_replaced() -> None:
    """What no database takes is gone from every text."""
    outcome = read(answer(200, rb'{"id": "c1", "status": "A\u0000B", "statusReason": "\ud800", "x\u0000": ["\udfff"]}'))

    assert isinstance(outcome, Found)
    assert (outcome.snapshot.status, outcome.snapshot.status_reason) == ("A\ufffdB", "\ufffd")
    assert outcome.snapshot.document["x\ufffd"] == ["\ufffd"]


@pytest.mark.parametrize("depth", [50, 150, 240, 260, 320, 480, 500, 900, 1_000, 2_000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_any_nesting_ends_well(depth: int, opening: bytes, closing: bytes) -> None:
    """However deep an answer is nested, it is found or unreadable, and what is found can be told by its digest."""
    inside = opening * depth + b"1" + closing * depth

    outcome = read(answer(200, b'{"id": "c1", "status": "ACTIVE", "deep": ' + inside + b"}"))

    if isinstance(outcome, Found):
        assert len(outcome.snapshot.digest) == 64
    else:
        assert outcome in {
            Unreadable("the answer is nested too deep"),
            Unreadable("the answer is nested too deep", outcome.evidence if isinstance(outcome, Unreadable) else ""),
        }


def test_equal_answers_have_equal_digests() -> None:
    """The order of an answer's fields changes nothing; a secret neither; anything else does."""
    swapped = dict(reversed(CONNECTION.items()))
    rotated = {**CONNECTION, "serviceProviderDetails": {**CONNECTION["serviceProviderDetails"], "accessToken": "new"}}
    changed = {**CONNECTION, "somethingNew": {"a": [2]}}

    digests = [
        outcome.snapshot.digest if isinstance(outcome := read_document(document), Found) else ""
        for document in (CONNECTION, swapped, rotated, changed)
    ]

    assert digests[0] == digests[1] == digests[2] != digests[3]


@pytest.mark.parametrize(
    ("connection_id", "path"),
    [
        ("c1", "/c1"),
        ("a b/c", "/a%20b%2Fc"),
        ("../customers", "/..%2Fcustomers"),
        ("..", "/%2E%2E"),
        (".", "/%2E"),
        ("a?limit=1#x", "/a%3Flimit%3D1%23x"),
        ("é%41\r\nX: y", "/%C3%A9%2541%0D%0AX%3A%20y"),
    ],
)
def test_ids_are_quoted(connection_id: str, path: str) -> None:
    """No id, however odd, reads anything but that one connection."""
    with meld_that(repeating(answer(404))) as (meld, server):
        meld.read(connection_id)

    assert server.requests[0].splitlines()[0] == f"GET /bank-linking/connections{path} HTTP/1.1"


@given(st.text(min_size=1, max_size=20))
def test_any_id_can_be_asked_for(connection_id: str) -> None:
    """There is no id that cannot be asked for."""
    assert read(answer(404), connection_id) == Absent()


def test_the_request_bears_what_meld_wants() -> None:
    """A read is a GET with the credentials, the version, and no wish for compression."""
    with meld_that(repeating(answer(404)), version="2023-12-19") as (meld, server):
        meld.read("c1")

    lines = server.requests[0].split("\r\n")
    assert {f"Authorization: BASIC {KEY}", "Meld-Version: 2023-12-19", "Accept-Encoding: identity"} <= set(lines)


def test_the_client_is_made_of_the_settings() -> None:
    """Address, credentials, version and time come from the settings; without a version none is sent."""
    with serving(repeating(answer(404))) as server:
        settings = Settings(meld_api_url=server.url, meld_api_key=SecretStr(KEY))
        meld = MeldClient.from_settings(settings, connections=1)
        outcome = meld.read("c1")
        meld.close()

    assert outcome == Absent()
    assert f"Authorization: BASIC {KEY}\r\n" in server.requests[0]
    assert "meld-version" not in server.requests[0].lower()


def test_a_page_is_read() -> None:
    """A page has its connections, without their keys, and the key to go on after."""
    got = page_of("k1", "k2", remaining=3)

    assert isinstance(got, ListPage)
    assert [snapshot.id for snapshot in got.snapshots] == ["k1", "k2"]
    assert ["key" in snapshot.document for snapshot in got.snapshots] == [False, False]
    assert (got.unreadable, got.after) == (0, "k2")


def test_a_page_is_asked_for() -> None:
    """The first page is asked for by its size, the next by the last one's key, quoted."""
    with meld_that(repeating(answer(500))) as (meld, server):
        meld.page()
        meld.page(after="k 2&x", limit=7)

    assert [request.splitlines()[0] for request in server.requests] == [
        "GET /bank-linking/connections?limit=100 HTTP/1.1",
        "GET /bank-linking/connections?limit=7&after=k+2%26x HTTP/1.1",
    ]


@pytest.mark.parametrize(
    ("got", "after"),
    [
        (lambda: page_of("k1", remaining=0), None),
        (lambda: page_of(remaining=0), None),
        (lambda: page_of(remaining=5), None),
        (lambda: page_of("k1"), "k1"),
        (lambda: page_of("k1", remaining=None), "k1"),
        (lambda: page_of("k1", remaining="many"), "k1"),
        (lambda: page_of(*FULL, remaining=0), FULL[-1]),
        (lambda: page_of(*FULL[1:], remaining=0), None),
    ],
)
def test_the_last_page_is_known(got: Callable[[], PageOutcome], after: str | None) -> None:
    """A page is the last one where nothing is on it, or where nothing remains and it is not full."""
    outcome = got()

    assert isinstance(outcome, ListPage)
    assert outcome.after == after


def test_an_item_that_cannot_be_read_spoils_no_page() -> None:
    """Items that are no connections are counted, and the others are there."""
    items = [5, None, {}, {**CONNECTION, "status": 5}, {**CONNECTION, "key": "last"}]

    got = page(answer(200, json.dumps({"connections": items, "remaining": 1}).encode()))

    assert isinstance(got, ListPage)
    assert ([snapshot.id for snapshot in got.snapshots], got.unreadable, got.after) == (["c1"], 4, "last")


@pytest.mark.parametrize(
    "last", [None, 5, {}, {**CONNECTION, "key": None}, {**CONNECTION, "key": ""}, {**CONNECTION, "key": "\ud800"}]
)
def test_the_list_goes_on_behind_the_last_key(last: object) -> None:
    """An item without a key that can be asked with is not the end of the list: the one before it is asked with."""
    items = [{**CONNECTION, "id": "c0", "key": "k0"}, {**CONNECTION, "key": "k1"}, last]

    got = page(answer(200, json.dumps({"connections": items, "remaining": 1}).encode()))

    assert isinstance(got, ListPage)
    assert got.after == "k1"


def test_a_list_that_cannot_be_gone_on_with_is_unreadable() -> None:
    """More remains, but there is no key: what lies behind is not missing, it was never shown."""
    items = [{"id": "c1", "status": "ACTIVE"}]

    got = page(answer(200, json.dumps({"connections": items, "remaining": 1}).encode()))

    assert got == Unreadable("more connections remain, and no item has a key to go on after")


@pytest.mark.parametrize("body", [b"{}", b'{"connections": null}', b'{"connections": {}}'])
def test_a_page_without_a_list_is_unreadable(body: bytes) -> None:
    """A page is told from an answer that has no list in it: that is not an empty list."""
    assert page(answer(200, body)) == Unreadable("the list has no connections in it")


@pytest.mark.parametrize("status", [404, 410])
def test_a_page_that_is_absent_is_unreadable(status: int) -> None:
    """The list itself cannot be deleted: a 404 means that the address is wrong."""
    assert page(answer(status)) == Unreadable(f"Meld answered {status}")


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=12, max_size=80))
def test_the_key_is_in_no_outcome(key: str) -> None:
    """Even a server that sends our credentials back does not bring them into what is stored or logged."""
    echoes = [answer(200, b"<p>" * 40 + f"You sent BASIC {key}".encode()), answer(200, key.encode()), answer(401)]
    outcomes = []
    with serving(*(repeating(echo) for echo in echoes)) as server:
        for _ in echoes:
            meld = MeldClient(
                url=server.url,
                authorization=SecretStr(f"BASIC {key}"),
                version=None,
                timeout_seconds=10,
                connections=1,
            )
            outcomes += [meld.read("c1")]
            meld.close()

    text = repr(outcomes)
    assert not any(key[start : start + 12] in text for start in range(len(key) - 11))


def test_evidence_is_short() -> None:
    """Of a body that cannot be read only the beginning is kept."""
    outcome = read(answer(200, b"word " * 1_000))

    assert isinstance(outcome, Unreadable)
    assert len(outcome.evidence) == MAX_EXCERPT_CHARACTERS
