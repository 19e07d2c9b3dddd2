import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
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
from tests.support.processes.servers import free_ports
from tests.support.random_rounds import rounds

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
    """Each field of a response is parsed, whatever other fields the response has."""
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


def test_the_whole_response_is_kept_without_secrets() -> None:
    """Unknown fields are kept; credentials and the key of the list are removed."""
    outcome = read_document(CONNECTION)

    expected = {name: value for name, value in CONNECTION.items() if name != "key"}
    expected["serviceProviderDetails"] = {"serviceProvider": "PLAID", "itemId": "item"}
    assert isinstance(outcome, Found)
    assert outcome.snapshot.document == expected
    assert "hidden" not in repr(outcome)


def test_id_and_status_are_enough() -> None:
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
def test_descriptive_fields_are_lenient(name: str, value: object) -> None:
    """A wrong type in a descriptive field leaves the connection readable, and the field in the document."""
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
def test_essential_fields_are_strict(name: str, value: object) -> None:
    """A wrong type in a field that events depend on makes the response unreadable; the error names the field."""
    outcome = read_document({**CONNECTION, name: value})

    assert outcome == Unreadable(f"the response is not a connection: check {name}")


@pytest.mark.parametrize("name", ["customerId", "externalCustomerId", "institutionId"])
@pytest.mark.parametrize("character", ["x", "\U0001f600"])
def test_values_too_long_for_an_index_stay_in_the_document(name: str, character: str) -> None:
    """A value too long for a database index is kept only in the document; the connection stays readable."""
    longest = character * (MAX_INDEXED_BYTES // len(character.encode()))
    values = {"customerId": "customer_id", "externalCustomerId": "external_customer_id"}

    found = [read_document({**CONNECTION, name: value}) for value in (longest, longest + character)]

    snapshots = [outcome.snapshot for outcome in found if isinstance(outcome, Found)]
    assert [getattr(each, values.get(name, "institution_id")) for each in snapshots] == [longest, None]
    assert snapshots[1].document[name] == longest + character


def test_invalid_duplicate_ids_are_left_out() -> None:
    """Entries of the list of duplicates that cannot be connection ids are left out."""
    listed = ["c2", None, 5, "c" * (MAX_ID_LENGTH + 1), "c\x003", "c4"]

    outcome = read_document({**CONNECTION, "duplicateConnectionIds": listed})

    assert isinstance(outcome, Found)
    assert outcome.snapshot.duplicate_ids == ("c2", "c4")


@pytest.mark.parametrize("name", ["id", "status"])
def test_essential_fields_are_required(name: str) -> None:
    """A response without id or status is unreadable."""
    outcome = read_document({key: value for key, value in CONNECTION.items() if key != name})

    assert outcome == Unreadable(f"the response is not a connection: check {name}")


def test_the_response_of_another_connection_is_refused() -> None:
    """A response about another connection is unreadable."""
    assert read_document({**CONNECTION, "id": "c2"}) == Unreadable("the response is about another connection")


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
        (answer(200), Unreadable("the response is not JSON")),
        (answer(200, b"[]"), Unreadable("the response is JSON but no object")),
        (answer(200, b"null"), Unreadable("the response is JSON but no object")),
        (answer(200, b"{}"), Unreadable("the response is not a connection: check id, status")),
        (answer(200, b"<html>Hello</html>"), Unreadable("the response is not JSON", "<html>Hello</html>")),
        (
            answer(200, b"\x1f\x8b", {"Content-Encoding": "gzip"}),
            Unreadable("the response is compressed although that was not requested"),
        ),
    ],
)
def test_every_response_has_its_outcome(raw: bytes, outcome: ReadOutcome) -> None:
    """Each kind of response becomes its outcome, and none raises an exception."""
    assert read(raw) == outcome


@pytest.mark.parametrize("status", [401, 403, 429, 500, 302])
def test_a_page_has_the_same_outcomes(status: int) -> None:
    """A page of the list is throttled, refused and unavailable as a single read is."""
    assert page(answer(status)) == read(answer(status))


def silent(peer: Peer) -> None:
    peer.hang()


def cut(peer: Peer) -> None:
    peer.request()
    peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{")


def test_a_timeout_is_unavailable() -> None:
    """A read that times out is unavailable."""
    with meld_that(silent, seconds=0.3) as (meld, _):
        assert meld.read("c1") == Unavailable("no complete response within 0.3 s")


def test_a_broken_connection_is_unavailable() -> None:
    """A read whose connection breaks is unavailable."""
    with meld_that(cut) as (meld, _):
        assert meld.read("c1") == Unavailable("connection failed (RemoteProtocolError)")


def test_a_refused_connection_is_unavailable() -> None:
    """A read that cannot connect is unavailable."""
    with client(f"http://127.0.0.1:{free_ports(1)[0]}") as meld:
        assert meld.read("c1") == Unavailable("connection failed (ConnectError)")


def test_a_response_that_is_too_large_is_unreadable() -> None:
    """A response above the size limit is not read to its end."""
    body = b'{"id": "c1", "status": "ACTIVE", "padding": "' + b"x" * 5_000_000 + b'"}'

    assert read(answer(200, body)) == Unreadable("the response is larger than allowed")


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"NaN", b"Infinity", b"9" * 5_000])
def test_numbers_that_cannot_be_stored_become_null(number: bytes) -> None:
    """Such a number does not make the response unreadable."""
    outcome = read(answer(200, b'{"id": "c1", "status": "ACTIVE", "odd": ' + number + b"}"))

    assert isinstance(outcome, Found)
    assert outcome.snapshot.document["odd"] is None


def test_strange_characters_are_replaced() -> None:
    """Characters that no database accepts are replaced in every text."""
    outcome = read(answer(200, rb'{"id": "c1", "status": "A\u0000B", "statusReason": "\ud800", "x\u0000": ["\udfff"]}'))

    assert isinstance(outcome, Found)
    assert (outcome.snapshot.status, outcome.snapshot.status_reason) == ("A\ufffdB", "\ufffd")
    assert outcome.snapshot.document["x\ufffd"] == ["\ufffd"]


@pytest.mark.parametrize("depth", [50, 150, 240, 260, 320, 480, 500, 900, 1_000, 2_000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_any_nesting_depth_has_an_outcome(depth: int, opening: bytes, closing: bytes) -> None:
    """However deep a response is nested, it is found or unreadable, and a found one has a digest."""
    inside = opening * depth + b"1" + closing * depth

    outcome = read(answer(200, b'{"id": "c1", "status": "ACTIVE", "deep": ' + inside + b"}"))

    if isinstance(outcome, Found):
        assert len(outcome.snapshot.digest) == 64
    else:
        assert outcome in {
            Unreadable("the response is nested too deep"),
            Unreadable("the response is nested too deep", outcome.evidence if isinstance(outcome, Unreadable) else ""),
        }


def test_equal_responses_have_equal_digests() -> None:
    """The order of fields and secrets do not change the digest; anything else does."""
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
    """Every id, however unusual, reads that one connection only."""
    with meld_that(repeating(answer(404))) as (meld, server):
        meld.read(connection_id)

    assert server.requests[0].splitlines()[0] == f"GET /bank-linking/connections{path} HTTP/1.1"


@given(st.text(min_size=1, max_size=20))
def test_any_id_can_be_requested(connection_id: str) -> None:
    """There is no id that cannot be requested."""
    assert read(answer(404), connection_id) == Absent()


def test_the_request_has_the_required_headers() -> None:
    """A read is a GET with credentials and version that accepts no compression."""
    with meld_that(repeating(answer(404)), version="2023-12-19") as (meld, server):
        meld.read("c1")

    lines = server.requests[0].split("\r\n")
    assert {f"Authorization: BASIC {KEY}", "Meld-Version: 2023-12-19", "Accept-Encoding: identity"} <= set(lines)


def test_the_client_uses_the_settings() -> None:
    """URL, credentials, version and timeout come from the settings; without a version no header is sent."""
    with serving(repeating(answer(404))) as server:
        settings = Settings(meld_api_url=server.url, meld_api_key=SecretStr(KEY))
        meld = MeldClient.from_settings(settings, connections=1)
        outcome = meld.read("c1")
        meld.close()

    assert outcome == Absent()
    assert f"Authorization: BASIC {KEY}\r\n" in server.requests[0]
    assert "meld-version" not in server.requests[0].lower()


def test_a_page_is_read() -> None:
    """A page has its connections, without their keys, and the key of the next page."""
    got = page_of("k1", "k2", remaining=3)

    assert isinstance(got, ListPage)
    assert [snapshot.id for snapshot in got.snapshots] == ["k1", "k2"]
    assert ["key" in snapshot.document for snapshot in got.snapshots] == [False, False]
    assert (got.unreadable, got.after) == (0, "k2")


def test_a_page_is_requested_by_limit_and_key() -> None:
    """The request of the first page has the limit, the next one also the last key, encoded."""
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
def test_the_last_page_is_recognized(got: Callable[[], PageOutcome], after: str | None) -> None:
    """A page is the last if it is empty, or if nothing remains and it is not full."""
    outcome = got()

    assert isinstance(outcome, ListPage)
    assert outcome.after == after


def test_an_unreadable_item_does_not_affect_the_page() -> None:
    """Items that are no connections are counted, and the others are returned."""
    items = [5, None, {}, {**CONNECTION, "status": 5}, {**CONNECTION, "key": "last"}]

    got = page(answer(200, json.dumps({"connections": items, "remaining": 1}).encode()))

    assert isinstance(got, ListPage)
    assert ([snapshot.id for snapshot in got.snapshots], got.unreadable, got.after) == (["c1"], 4, "last")


@pytest.mark.parametrize(
    "last", [None, 5, {}, {**CONNECTION, "key": None}, {**CONNECTION, "key": ""}, {**CONNECTION, "key": "\ud800"}]
)
def test_the_list_continues_after_the_last_key(last: object) -> None:
    """An item without a usable key does not end the list: the key of the item before it is used."""
    items = [{**CONNECTION, "id": "c0", "key": "k0"}, {**CONNECTION, "key": "k1"}, last]

    got = page(answer(200, json.dumps({"connections": items, "remaining": 1}).encode()))

    assert isinstance(got, ListPage)
    assert got.after == "k1"


def test_a_list_without_a_key_for_the_next_page_is_unreadable() -> None:
    """If more connections remain and there is no key, the rest is unknown, and must not count as missing."""
    items = [{"id": "c1", "status": "ACTIVE"}]

    got = page(answer(200, json.dumps({"connections": items, "remaining": 1}).encode()))

    assert got == Unreadable("more connections remain, and no item has a key for the next page")


@pytest.mark.parametrize("body", [b"{}", b'{"connections": null}', b'{"connections": {}}'])
def test_a_page_without_a_list_is_unreadable(body: bytes) -> None:
    """A response without a list is not an empty list."""
    assert page(answer(200, body)) == Unreadable("the response has no list of connections")


@pytest.mark.parametrize("status", [404, 410])
def test_a_page_that_is_absent_is_unreadable(status: int) -> None:
    """The list itself cannot be deleted: a 404 means that the URL is wrong."""
    assert page(answer(status)) == Unreadable(f"Meld answered {status}")


@settings(max_examples=rounds(25))
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=12, max_size=80))
def test_the_key_is_in_no_outcome(key: str) -> None:
    """If a server returns our credentials, they are neither stored nor logged."""
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


def test_the_excerpt_is_short() -> None:
    """Only the beginning of an unreadable body is kept."""
    outcome = read(answer(200, b"word " * 1_000))

    assert isinstance(outcome, Unreadable)
    assert len(outcome.evidence) == MAX_EXCERPT_CHARACTERS
