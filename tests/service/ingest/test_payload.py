import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.meld.connection import MAX_ID_LENGTH
from schemas.meld.webhook import Hint
from service.ingest.payload import parse_hint

STATUS_CHANGE = "BANK_LINKING_CONNECTION_STATUS_CHANGE"
DELETED = "BANK_LINKING_CONNECTION_DELETED"
FIELDS = ["eventType", "eventId", "timestamp", "accountId", "profileId", "version", "payload"]
PAYLOAD_FIELDS = ["connectionId", "newStatus", "customerId", "requestId"]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=20)
    | st.sampled_from([STATUS_CHANGE, DELETED, "\ud800", "\x00", "a" * 201, "2026-01-02T03:04:05Z"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(FIELDS + PAYLOAD_FIELDS) | st.text(max_size=5), inner, max_size=6)
    ),
    max_leaves=12,
)
envelopes = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(FIELDS, json_values),
        "payload": st.fixed_dictionaries({}, optional=dict.fromkeys(PAYLOAD_FIELDS, json_values)) | json_values,
    },
)


def envelope(**fields: Any) -> dict[str, Any]:
    """Return a webhook as Meld sends it, with some fields replaced."""
    return {
        "eventType": STATUS_CHANGE,
        "eventId": "NGoTSGJYpd3cLv1iyHWSw9",
        "timestamp": "2025-01-02T03:04:05.678901Z",
        "accountId": "QfdzpX3te1cDaviihXA4D5dA6ghnT3",
        "profileId": None,
        "version": "2023-12-19",
        "payload": {"requestId": "r", "connectionId": "WQ4mBt3BEX2cmhCvSPyfTu", "newStatus": "PARTIALLY_ACTIVE"},
        **fields,
    }


def encoded(document: object) -> bytes:
    return json.dumps(document).encode()


def assert_storable(hint: Hint) -> None:
    """Fail unless every database can store the hint."""
    for text in (hint.event_id, hint.type, hint.account_id, hint.connection_id, hint.status):
        assert text is None or 0 < len(text) <= MAX_ID_LENGTH
        assert text is None or "\x00" not in text
        assert text is None or text.encode("utf-8")
    assert hint.occurred_at is None or hint.occurred_at.astimezone(UTC)


def test_all_fields_of_a_hint_are_parsed() -> None:
    """A complete STATUS_CHANGE gives a complete hint."""
    hint = parse_hint(encoded(envelope()))

    assert hint == Hint(
        event_id="NGoTSGJYpd3cLv1iyHWSw9",
        type=STATUS_CHANGE,
        account_id="QfdzpX3te1cDaviihXA4D5dA6ghnT3",
        connection_id="WQ4mBt3BEX2cmhCvSPyfTu",
        status="PARTIALLY_ACTIVE",
        occurred_at=datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    )


def test_published_samples_are_parsed() -> None:
    """Meld's published COMPLETED names its connection, its WEBHOOK_TEST names none."""
    completed = (
        b'{"eventType":"BANK_LINKING_CONNECTION_COMPLETED","eventId":"NGoTSGJYpd3cLv1iyHWSw9",'
        b'"timestamp":"2021-12-09T21:58:29.329186Z","accountId":"QfdzpX3te1cDaviihXA4D5dA6ghnT3",'
        b'"profileId":"W9kBgKB7afMxYoYuy3rJuZ","version":"2021-10-28","payload":{"requestId":"91d7",'
        b'"customerId":"Qg56BnxskKokRV8rVo21Af3T4k6QKY","connectionId":"WQ4mBt3BEX2cmhCvSPyfTu"}}'
    )
    test = (
        b'{"eventType":"WEBHOOK_TEST","eventId":"Mf4jwUv6JodLmEWRxC6j2N","timestamp":"2022-05-13T21:44:57.314301Z",'
        b'"accountId":"W2a8FeqGg8MEVPFND3vqWJ","profileId":"W9kooERZKwHY9GGB6bJ1pf","version":"2021-10-27",'
        b'"payload":{"requestId":"Q8C97KA8CSAfaUSv8Q5s2f"}}'
    )

    read = [(hint.event_id, hint.connection_id, hint.status) for hint in map(parse_hint, (completed, test))]
    assert read == [
        ("NGoTSGJYpd3cLv1iyHWSw9", "WQ4mBt3BEX2cmhCvSPyfTu", None),
        ("Mf4jwUv6JodLmEWRxC6j2N", None, None),
    ]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b" \r\n", id="white space"),
        pytest.param(b"null", id="null"),
        pytest.param(b"true", id="true"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b'[{"eventId":"e"}]', id="a list of webhooks"),
        pytest.param(b'"eventId"', id="text"),
        pytest.param(b"1e999", id="infinite"),
        pytest.param(b"NaN", id="NaN"),
        pytest.param(b"-Infinity", id="minus infinity"),
        pytest.param(b"1" * 5000, id="5,000 digits"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="100,000 lists"),
        pytest.param(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, id="100,000 objects"),
        pytest.param(b"[" * 1_000_000, id="a million open brackets"),
        pytest.param(b'{"eventId":"e"', id="cut off"),
        pytest.param(b'{"eventId":"e"} {"eventId":"f"}', id="two objects"),
        pytest.param(b'{"eventId":"e"}\x00', id="NUL behind"),
        pytest.param(b"{'eventId':'e'}", id="single quotes"),
        pytest.param('{"eventId":"e"}'.encode("utf-16"), id="UTF-16"),
        pytest.param('{"eventId":"e"}'.encode("utf-32"), id="UTF-32"),
        pytest.param(b"\xef\xbb\xbf\xef\xbb\xbf{}", id="two BOMs"),
        pytest.param(b"eventType=TEST&eventId=e", id="a form"),
        pytest.param(b"\xff\xfe\x00\x01", id="no text"),
        pytest.param(b'{"eventId":"\n"}', id="a raw newline in a string"),
    ],
)
def test_an_unusable_body_gives_an_empty_hint(body: bytes) -> None:
    """An unparseable body, or one that is no object, gives an empty hint and no error."""
    assert parse_hint(body) == Hint()


@pytest.mark.parametrize("payload", [None, [], "text", 1, True, [{"connectionId": "c"}], {}, {"connectionId": None}])
def test_an_unusable_payload_leaves_the_other_fields(payload: object) -> None:
    """Without a usable payload the event still has its id."""
    hint = parse_hint(encoded(envelope(payload=payload)))

    assert (hint.event_id, hint.connection_id, hint.status) == ("NGoTSGJYpd3cLv1iyHWSw9", None, None)


@pytest.mark.parametrize(
    "value", [None, 1, 1.5, True, [], ["e"], {}, {"id": "e"}, "", "\x00", "a\x00b", "\ud800", "a\n"]
)
@pytest.mark.parametrize("field", ["eventId", "accountId"])
def test_an_unusable_id_is_none(field: str, value: object) -> None:
    """An id of another type, empty, or with invalid characters counts as missing."""
    hint = parse_hint(encoded(envelope(**{field: value})))

    assert (hint.event_id if field == "eventId" else hint.account_id) is None


@pytest.mark.parametrize(
    ("length", "is_kept"), [(1, True), (22, True), (MAX_ID_LENGTH, True), (MAX_ID_LENGTH + 1, False), (100_000, False)]
)
def test_a_too_long_id_is_none(length: int, is_kept: bool) -> None:  # noqa: FBT001 - a table's column
    """A too long id is never truncated: the rest would name something else."""
    id_ = "ü" * length
    hint = parse_hint(encoded(envelope(eventId=id_, payload={"connectionId": id_})))

    assert (hint.event_id, hint.connection_id) == ((id_, id_) if is_kept else (None, None))


@pytest.mark.parametrize("field", [b"eventId", b"accountId", b"connectionId"])
def test_an_id_of_invalid_utf8_is_none(field: bytes) -> None:
    """Two ids that differ in invalid bytes must not become equal: the second event would be lost as a repeat."""
    body = b'{"eventId":"e","accountId":"a","payload":{"connectionId":"c"}}'
    broken = body.replace(b'"%s":"' % field, b'"%s":"\xff' % field)
    hint = parse_hint(broken)

    read = {b"eventId": hint.event_id, b"accountId": hint.account_id, b"connectionId": hint.connection_id}
    assert read[field] is None


@pytest.mark.parametrize(
    ("type_", "status"),
    [(STATUS_CHANGE, "NEW"), (DELETED, "DELETED"), ("BANK_LINKING_ACCOUNTS_UPDATED", None), ("NEVER_HEARD_OF", None)],
)
def test_only_two_types_announce_a_status(type_: str, status: str | None) -> None:
    """STATUS_CHANGE announces its new status, DELETED announces DELETED; no other type announces a status."""
    hint = parse_hint(encoded(envelope(eventType=type_, payload={"connectionId": "c", "newStatus": "NEW"})))

    assert (hint.type, hint.status, hint.connection_id) == (type_, status, "c")


@pytest.mark.parametrize("value", [None, 1, "", [], {}, True])
def test_an_unusable_status_is_none(value: object) -> None:
    """A STATUS_CHANGE without a usable status is still a hint."""
    hint = parse_hint(encoded(envelope(payload={"connectionId": "c", "newStatus": value})))

    assert (hint.status, hint.connection_id) == (None, "c")


def test_type_and_status_are_truncated_and_cleaned() -> None:
    """Texts that are only displayed are truncated, and invalid characters replaced."""
    hint = parse_hint(encoded(envelope(eventType="T\x00\ud800" + "x" * 1000)))

    assert hint.type == "T\ufffd\ufffd" + "x" * (MAX_ID_LENGTH - 3)


@pytest.mark.parametrize(
    "text",
    [
        "2025-01-02T03:04:05.678901Z",
        "2025-01-02T03:04:05.678901234Z",
        "2025-01-02T03:04:05.678901+00:00",
        "2025-01-02T08:34:05.678901+05:30",
    ],
)
def test_times_are_parsed_in_every_format(text: str) -> None:
    """Any number of fraction digits and any offset is parsed."""
    expected = datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)

    assert parse_hint(encoded(envelope(timestamp=text))).occurred_at == expected


@pytest.mark.parametrize(
    "value",
    [None, 0, 1e300, "", "now", "2025-01-02", "2025-01-02T03:04:05", "1e400", "nan", "9" * 400, "\ud800", [], {}],
)
def test_an_unusable_time_is_none(value: object) -> None:
    """An invalid time is left out; the other fields stay."""
    hint = parse_hint(encoded(envelope(timestamp=value)))

    assert (hint.occurred_at, hint.event_id) == (None, "NGoTSGJYpd3cLv1iyHWSw9")


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-23:00", "0001-01-01T00:00:00+14:00"])
def test_a_time_outside_the_range_of_utc_is_none(text: str) -> None:
    """An offset can lead beyond the first or last date, which no database could store."""
    assert parse_hint(encoded(envelope(timestamp=text))).occurred_at is None


def test_a_byte_order_mark_is_skipped() -> None:
    """A BOM before the object is skipped."""
    assert parse_hint(b"\xef\xbb\xbf" + encoded(envelope())).event_id == "NGoTSGJYpd3cLv1iyHWSw9"


def test_unusual_values_do_not_hide_the_others() -> None:
    """NaN, infinities, endless numbers and unknown fields beside the ids leave the ids readable."""
    body = (
        b'{"eventId":"e","n":NaN,"i":1e999,"m":-Infinity,"d":' + b"7" * 5000 + b',"f":0.' + b"7" * 5000 + b","
        b'"payload":{"connectionId":"c","financialAccounts":[{"id":' + b"[" * 100 + b"]" * 100 + b"}]}}"
    )

    hint = parse_hint(body)

    assert (hint.event_id, hint.connection_id) == ("e", "c")


def test_the_last_of_duplicate_fields_counts() -> None:
    """The last of duplicate names counts, as in most JSON parsers."""
    assert parse_hint(b'{"eventId":"first","eventId":"last"}').event_id == "last"


@given(st.binary(max_size=200))
@example(b"\x00")
@example(b'{"eventId":"\\ud800"}')
def test_any_bytes_give_a_hint(body: bytes) -> None:
    """Parsing any bytes raises nothing and gives a hint that can be stored."""
    assert_storable(parse_hint(body))


@given(st.one_of(json_values, envelopes))
def test_any_json_gives_a_hint(document: object) -> None:
    """Any JSON, and any fields of any type, gives a hint that can be stored."""
    assert_storable(parse_hint(encoded(document)))


@given(st.text(st.characters(codec=None), max_size=MAX_ID_LENGTH + 5), st.booleans())
def test_ids_are_unaltered_or_none(id_: str, is_ascii: bool) -> None:  # noqa: FBT001 - drawn
    """An id is exactly what Meld sent, or None: nothing is trimmed, folded, replaced or truncated."""
    document = json.dumps(envelope(eventId=id_, payload={"connectionId": id_}), ensure_ascii=is_ascii)
    hint = parse_hint(document.encode("utf-8", errors="surrogatepass"))

    assert hint.event_id in {id_, None}
    assert hint.connection_id == hint.event_id


@given(st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz-_:. ", min_size=1, max_size=MAX_ID_LENGTH))
def test_ids_of_valid_characters_are_accepted(id_: str) -> None:
    """Meld's alphabet, and all other valid characters, are accepted."""
    assert parse_hint(encoded({"eventId": id_})).event_id == id_


@given(st.datetimes(timezones=st.timezones()))
def test_any_time_is_parsed_or_none(moment: datetime) -> None:
    """Every aware time within UTC's range is parsed to the microsecond, whatever its offset."""
    try:
        expected = moment.astimezone(UTC)
    except OverflowError:
        expected = None
    if expected is not None and (moment.utcoffset() or timedelta()).total_seconds() % 60:
        return  # offsets of the time before time zones have seconds, which ISO 8601 does not know

    assert parse_hint(encoded({"timestamp": moment.isoformat()})).occurred_at == expected
