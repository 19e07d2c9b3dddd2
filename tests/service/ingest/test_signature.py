import base64
import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.ingest.signature import (
    SignatureRefusal,
    SignatureVerifier,
    TimestampWindow,
    VerifiedSignature,
    parse_signature_time,
)
from tests.support.meld_signature import SECRET, SIGNED_AT, TIMESTAMP, URL, digest, headers, sign

BODY = (
    b'{"eventType":"WEBHOOK_TEST","eventId":"GDtv8pQgwzc9HuFFBQFrww","timestamp":"2022-05-26T20:23:45.908400Z",'
    b'"accountId":"W9jpQc1HKvwscqMPcLmzUS","profileId":null,"version":"2021-10-27",'
    b'"payload":{"requestId":"7aWW1GXTjWCCtNubzvVX7V"}}'
)
"""Meld's published vector (docs.meld.io/docs/webhook-authentication)."""

SIGNATURE = b"O4bN5E0U9s88l2DFc0kjt-0w3LLA3Zkv8hXhafc22Hg="
OWN_BODY = b'{"eventType":"WEBHOOK_TEST","payload":{"institutionName":"Cr\\u00e9dit","n":1.0}}'
OWN_SIGNATURE = b"34HYXZtb0OLl7APpxGgffl1alPRYYRY_LD53BenhpUA="

WINDOW = TimestampWindow(max_age=timedelta(days=4), max_skew=timedelta(minutes=5))
VERIFIER = SignatureVerifier(urls=[URL], secrets=[SECRET], window=WINDOW)

raw = st.binary(max_size=80)


def verify(
    body: bytes, lines: list[tuple[bytes, bytes]], *, verifier: SignatureVerifier = VERIFIER
) -> VerifiedSignature | SignatureRefusal:
    return verifier.verify(lines, body, SIGNED_AT)


def flipped(value: bytes, place: int, bits: int) -> bytes:
    """Return ``value`` with some bits of one byte flipped."""
    place %= len(value)
    return value[:place] + bytes([value[place] ^ bits]) + value[place + 1 :]


@pytest.mark.parametrize(("body", "signature"), [(BODY, SIGNATURE), (OWN_BODY, OWN_SIGNATURE)], ids=["meld", "own"])
def test_published_vectors_hold(body: bytes, signature: bytes) -> None:
    """Meld's published vector verifies, and one whose body a JSON round trip would change."""
    assert verify(body, headers(signature)) == VerifiedSignature(URL, SIGNED_AT)


def test_a_reserialized_body_does_not_verify() -> None:
    """Our vector detects an implementation that signs the parsed body instead of the raw bytes; Meld's does not."""
    again = json.dumps(json.loads(OWN_BODY), separators=(",", ":")).encode()
    also = json.dumps(json.loads(OWN_BODY), separators=(",", ":"), ensure_ascii=False).encode()

    assert [verify(body, headers(OWN_SIGNATURE)) for body in (again, also)] == [
        VerifiedSignature(URL, SIGNED_AT),
        SignatureRefusal("wrong"),
    ]


@pytest.mark.parametrize(
    "signature",
    [
        pytest.param(b"U7Uok2f-iTv8EZ5WefRKBH3J2eF9Se1Sl5lasEE7m0k=", id="trailing slash"),
        pytest.param(b"6GTOu2EApUN8NEYlJV9YmUUkoOlBWFRaVhGWZoLHpo0=", id="http"),
        pytest.param(b"A_q_F6Uq_YA1jySBWPuR7SUYob0Y6p-5fjPoTS28Nqg=", id="no URL"),
        pytest.param(b"K7gwYSqYnQZ8saqiamdJn07UPaWUZZ5h9NE_-mER4AE=", id="body only"),
        pytest.param(b"O4bN5E0U9s88l2DFc0kjt+0w3LLA3Zkv8hXhafc22Hg=", id="standard base64"),
        pytest.param(b"3b86cde44d14f6cf3c9760c5734923b7ed30dcb2c0dd992ff215e169f736d878", id="hex"),
        pytest.param(b"3B86CDE44D14F6CF3C9760C5734923B7ED30DCB2C0DD992FF215E169F736D878", id="HEX"),
        pytest.param(digest(BODY), id="the bare digest"),
        pytest.param(SIGNATURE + b"=", id="padded twice"),
        pytest.param(SIGNATURE[:-2] + b"=", id="a character short"),
        pytest.param(SIGNATURE[:20], id="truncated"),
        pytest.param(b" " + SIGNATURE, id="space before"),
        pytest.param(SIGNATURE + b"\n", id="newline behind"),
        pytest.param(SIGNATURE.lower(), id="lower case"),
        pytest.param(b"sha256=" + SIGNATURE, id="prefixed"),
        pytest.param(SIGNATURE + b", " + SIGNATURE, id="two in one line"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\xfe" + SIGNATURE, id="not ASCII"),
        # The last character of 43 has two bits that mean nothing; a lenient decoder would take this for the same.
        pytest.param(SIGNATURE[:-2] + b"h=", id="another spelling of the same digest"),
    ],
)
def test_near_misses_do_not_verify(signature: bytes) -> None:
    """Signatures of other constructions and encodings are refused as wrong."""
    assert verify(BODY, headers(signature)) == SignatureRefusal("wrong")


def test_a_decoded_secret_does_not_verify() -> None:
    """The secret is text: decoding it from base64 gives another signature."""
    key = base64.b64decode(SECRET + "=" * (-len(SECRET) % 4)).decode("latin-1")

    assert verify(BODY, headers(sign(BODY, secret=key))) == SignatureRefusal("wrong")


def test_an_unpadded_signature_verifies() -> None:
    """Base64 padding is optional."""
    assert verify(BODY, headers(SIGNATURE.rstrip(b"="))) == VerifiedSignature(URL, SIGNED_AT)


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([], id="none"),
        pytest.param([(b"meld-signature", SIGNATURE)], id="no time"),
        pytest.param([(b"meld-signature-timestamp", TIMESTAMP)], id="no signature"),
        pytest.param([*headers(SIGNATURE), (b"meld-signature", SIGNATURE)], id="the signature twice"),
        pytest.param([*headers(SIGNATURE), (b"meld-signature", b"other")], id="two signatures"),
        pytest.param([(b"meld-signature", b"other"), *headers(SIGNATURE)], id="two signatures, the right one last"),
        pytest.param([*headers(SIGNATURE), (b"meld-signature-timestamp", TIMESTAMP)], id="the time twice"),
        pytest.param([(b"x-meld-signature", SIGNATURE), (b"meld-signature-timestamp", TIMESTAMP)], id="another name"),
    ],
)
def test_headers_must_come_exactly_once(lines: list[tuple[bytes, bytes]]) -> None:
    """A signature or a time that is missing or repeated is refused before any comparison."""
    assert verify(BODY, lines) == SignatureRefusal("missing")


@pytest.mark.parametrize(
    "timestamp",
    [
        b"",
        b" ",
        b"now",
        b"nan",
        b"inf",
        b"-1653596717",
        b"1e9",
        b"0x62900000",
        b"1653596717s",
        b" 1653596717",
        b"1_653_596_717",
        b"12345678",
        b"123456789012",
        b"2022-05-26T24:00:00Z",
        b"2022-13-01T00:00:00Z",
        b"2022-05-26T20:25:17.682818+25:00",
        b"0001-01-01T00:00:00+10:00",
        b"9999-12-31T23:59:59-10:00",
        b"Thu, 26 May 2022 20:25:17 GMT",
        b"9" * 5000,
        "١٦٥٣٥٩٦٧١٧".encode(),  # digits that int() would take
        b"\xff\xfe",
    ],
)
def test_an_unparseable_time_is_refused_although_signed(timestamp: bytes) -> None:
    """An unparseable time is refused, although the signature over it is valid."""
    signed = sign(BODY, timestamp=timestamp)

    assert verify(BODY, headers(signed, timestamp)) == SignatureRefusal("unreadable_time")


@pytest.mark.parametrize(
    ("timestamp", "microsecond"),
    [(b"2022-05-26T20:25:17Z", 0)]
    + [(f"2022-05-26T20:25:17.{'123456789'[:digits]}Z".encode(), None) for digits in range(1, 10)],
    ids=[f"{digits} digits" for digits in range(10)],
)
def test_iso_times_have_any_number_of_digits(timestamp: bytes, microsecond: int | None) -> None:
    """Java writes zero to nine fraction digits; those beyond microseconds are dropped."""
    digits = timestamp.partition(b".")[2].rstrip(b"Z").decode()
    expected = int(digits[:6].ljust(6, "0")) if microsecond is None else microsecond

    assert parse_signature_time(timestamp) == datetime(2022, 5, 26, 20, 25, 17, expected, tzinfo=UTC)


@pytest.mark.parametrize(
    "timestamp",
    [
        b"2022-05-26T20:25:17Z",
        b"2022-05-26T20:25:17+00:00",
        b"2022-05-26T22:25:17+02:00",
        b"2022-05-26T22:25:17+0200",
        b"2022-05-26T15:55:17-04:30",
        b"2022-05-27T10:25:17+14:00",
        b"2022-05-26T20:25:17",
        b"2022-05-26 20:25:17Z",
        b"20220526T202517Z",
        b"1653596717",
        b"1653596717.0",
        b"1653596717.000000000",
        b"1653596717000",
    ],
)
def test_a_time_is_parsed_in_every_format(timestamp: bytes) -> None:
    """ISO 8601 with offsets or without (UTC then), and Unix seconds or milliseconds, name one moment."""
    assert parse_signature_time(timestamp) == datetime(2022, 5, 26, 20, 25, 17, tzinfo=UTC)


def test_a_time_without_an_offset_is_utc_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's time zone does not matter."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    moment = parse_signature_time(b"2022-05-26T20:25:17")
    monkeypatch.undo()
    time.tzset()

    assert moment == datetime(2022, 5, 26, 20, 25, 17, tzinfo=UTC)


@given(st.datetimes(min_value=datetime(1973, 3, 4), max_value=datetime(5000, 1, 1)))  # noqa: DTZ001 - hypothesis wants it
def test_iso_and_unix_seconds_agree(moment: datetime) -> None:
    """Both formats represent any time, to the second."""
    moment = moment.replace(tzinfo=UTC, microsecond=0)
    forms = (moment.isoformat(), moment.isoformat().replace("+00:00", "Z"), str(int(moment.timestamp())))

    assert [parse_signature_time(form.encode()) for form in forms] == [moment] * 3


@pytest.mark.parametrize(
    ("age", "verdict"),
    [
        pytest.param(timedelta(0), None, id="now"),
        pytest.param(timedelta(days=3, hours=1), None, id="Meld's last retry, with the first attempt's time"),
        pytest.param(timedelta(days=4), None, id="as old as allowed"),
        pytest.param(timedelta(days=4, microseconds=1), "too_old", id="older than allowed"),
        pytest.param(timedelta(days=4000), "too_old", id="ancient"),
        pytest.param(-timedelta(minutes=5), None, id="as far ahead as allowed"),
        pytest.param(-timedelta(minutes=5, microseconds=1), "in_the_future", id="further ahead than allowed"),
        pytest.param(-timedelta(days=4000), "in_the_future", id="far ahead"),
    ],
)
def test_the_window_includes_both_limits(age: timedelta, verdict: str | None) -> None:
    """The window includes its limits, and nothing beyond."""
    expected = VerifiedSignature(URL, SIGNED_AT) if verdict is None else SignatureRefusal(verdict)

    assert VERIFIER.verify(headers(SIGNATURE), BODY, SIGNED_AT + age) == expected


def test_a_wrong_signature_is_wrong_at_any_time() -> None:
    """The signature is checked before the window: an old forgery is wrong, not too old."""
    verdict = VERIFIER.verify(headers(b"forged"), BODY, SIGNED_AT + timedelta(days=400))

    assert verdict == SignatureRefusal("wrong")


@pytest.mark.parametrize(("urls", "secrets"), [([], [SECRET]), ([URL], []), ([], [])], ids=["URL", "secret", "both"])
def test_nothing_is_verified_without_url_and_secret(urls: list[str], secrets: list[str]) -> None:
    """A verifier without URL or secret cannot be created."""
    with pytest.raises(ValueError, match="at least one URL and one secret"):
        SignatureVerifier(urls=urls, secrets=secrets, window=WINDOW)


@pytest.mark.parametrize("secret", ["new", "old", SECRET])
@pytest.mark.parametrize("url", ["https://a.test/hook", "https://a.test/hook/", "https://b.test/hook?x=1", URL])
def test_any_url_with_any_secret_verifies(url: str, secret: str) -> None:
    """Several profiles, or a secret's rotation: every pair verifies, and the result has the URL."""
    urls = ["https://a.test/hook", "https://a.test/hook/", "https://b.test/hook?x=1", URL]
    verifier = SignatureVerifier(urls=urls, secrets=["new", "old", SECRET], window=WINDOW)
    lines = headers(sign(BODY, url=url, secret=secret))

    assert verify(BODY, lines, verifier=verifier) == VerifiedSignature(url, SIGNED_AT)


@pytest.mark.parametrize("part", ["url", "secret"])
def test_a_removed_pair_verifies_no_more(part: str) -> None:
    """After a rotation the old secret and the old URL no longer verify."""
    verifier = SignatureVerifier(
        urls=["https://new.test"] if part == "url" else [URL],
        secrets=["new"] if part == "secret" else [SECRET],
        window=WINDOW,
    )

    assert verify(BODY, headers(SIGNATURE), verifier=verifier) == SignatureRefusal("wrong")


@pytest.mark.parametrize(
    "url",
    [
        "HTTPS://example.meld.io/webhooks",
        "https://EXAMPLE.meld.io/webhooks",
        "https://example.meld.io:443/webhooks",
        "https://example.meld.io/webhooks?",
        "https://example.meld.io/webhooks#",
        "https://example.meld.io/%77ebhooks",
        "https://example.meld.io//webhooks",
        "https://example.meld.io/webhooks ",
    ],
)
def test_urls_are_never_normalised(url: str) -> None:
    """The URL is used byte by byte; equivalent URLs are different."""
    assert verify(BODY, headers(sign(BODY, url=url))) == SignatureRefusal("wrong")


def test_a_url_and_a_secret_may_be_any_text() -> None:
    """Non-ASCII characters are signed as UTF-8."""
    url, secret = "https://bücher.test/häkchen?q=ü", "geheim🔑\x00ü"
    verifier = SignatureVerifier(urls=[url], secrets=[secret], window=WINDOW)

    assert verify(BODY, headers(sign(BODY, url=url, secret=secret)), verifier=verifier) == VerifiedSignature(
        url, SIGNED_AT
    )


@given(raw)
def test_any_signed_body_verifies(body: bytes) -> None:
    """Any bytes can be a body: it is not decoded, trimmed or parsed."""
    assert verify(body, headers(sign(body))) == VerifiedSignature(URL, SIGNED_AT)


@given(body=st.binary(min_size=1, max_size=80), place=st.integers(0, 10_000), bits=st.integers(1, 255))
def test_a_changed_body_never_verifies(body: bytes, place: int, bits: int) -> None:
    """Any other byte anywhere in the body breaks the signature."""
    assert verify(flipped(body, place, bits), headers(sign(body))) == SignatureRefusal("wrong")


@given(place=st.integers(0, 10_000), bits=st.integers(1, 255))
def test_a_changed_time_never_verifies(place: int, bits: int) -> None:
    """Any other byte in the time breaks the signature."""
    verdict = verify(BODY, headers(SIGNATURE, flipped(TIMESTAMP, place, bits)))

    assert isinstance(verdict, SignatureRefusal)


@given(place=st.integers(0, 10_000), bits=st.integers(1, 127))
def test_a_changed_url_or_secret_never_verifies(place: int, bits: int) -> None:
    """Any other character in the URL or in the secret breaks the signature."""
    url = flipped(URL.encode(), place, bits).decode("ascii")
    secret = flipped(SECRET.encode(), place, bits).decode("ascii")
    verifiers = (
        SignatureVerifier(urls=[url], secrets=[SECRET], window=WINDOW),
        SignatureVerifier(urls=[URL], secrets=[secret], window=WINDOW),
    )

    assert [verify(BODY, headers(SIGNATURE), verifier=each) for each in verifiers] == [SignatureRefusal("wrong")] * 2


@given(place=st.integers(0, 10_000), bits=st.integers(1, 255))
def test_a_changed_signature_never_verifies(place: int, bits: int) -> None:
    """Any other byte in the signature breaks it."""
    assert verify(BODY, headers(flipped(SIGNATURE, place, bits))) == SignatureRefusal("wrong")


@given(body=raw, signature=raw, timestamp=raw, more=st.lists(st.tuples(raw, raw), max_size=4))
def test_any_bytes_are_refused_without_an_error(
    body: bytes, signature: bytes, timestamp: bytes, more: list[tuple[bytes, bytes]]
) -> None:
    """Any headers and body give a refusal, never an exception."""
    assume(not any(name.startswith(b"meld-signature") for name, _ in more))

    assert isinstance(verify(body, [*more, *headers(signature, timestamp)]), SignatureRefusal)


@given(signature=raw)
def test_any_signature_is_compared_without_an_error(signature: bytes) -> None:
    """The comparison accepts any bytes, also non-ASCII ones."""
    assume(signature != SIGNATURE)

    assert verify(BODY, headers(signature)) == SignatureRefusal("wrong")


@given(raw)
def test_any_bytes_are_a_time_or_none(value: bytes) -> None:
    """A parsed time is aware and UTC."""
    moment = parse_signature_time(value)

    assert moment is None or moment.utcoffset() == timedelta(0)


@given(st.text("0123456789-:.TZ+ W", max_size=40))
def test_any_text_like_a_time_is_parsed_or_none(value: str) -> None:
    """Any text of a time's characters raises nothing."""
    moment = parse_signature_time(value.encode())

    assert moment is None or moment.utcoffset() == timedelta(0)


def test_a_verdict_contains_no_secret() -> None:
    """The repr of a refusal or a verifier contains neither the secret nor an expected signature."""
    text = f"{VERIFIER!r} {VERIFIER} {verify(BODY, headers(b'forged'))!r}"

    assert SECRET not in text
    assert SIGNATURE.decode() not in text
