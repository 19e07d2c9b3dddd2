from datetime import UTC, datetime

import pytest

from simulator.webhooks import signature as sign

SECRET = "42m4NMLS34WQ6BbMfo1KFKqMv4hy"
URL = "https://example.meld.io/webhooks"
SIGNED_AT = "2022-05-26T20:25:17.682818Z"
PUBLISHED_BODY = (
    b'{"eventType":"WEBHOOK_TEST","eventId":"GDtv8pQgwzc9HuFFBQFrww","timestamp":"2022-05-26T20:23:45.908400Z",'
    b'"accountId":"W9jpQc1HKvwscqMPcLmzUS","profileId":null,"version":"2021-10-27",'
    b'"payload":{"requestId":"7aWW1GXTjWCCtNubzvVX7V"}}'
)
PUBLISHED_SIGNATURE = "O4bN5E0U9s88l2DFc0kjt-0w3LLA3Zkv8hXhafc22Hg="
#: Parsing and serialising this body changes its bytes, unlike the published body.
DELICATE_BODY = rb'{"eventType":"WEBHOOK_TEST","payload":{"institutionName":"Cr\u00e9dit","n":1.0}}'
DELICATE_SIGNATURE = "34HYXZtb0OLl7APpxGgffl1alPRYYRY_LD53BenhpUA="


@pytest.mark.parametrize(
    ("body", "expected"), [(PUBLISHED_BODY, PUBLISHED_SIGNATURE), (DELICATE_BODY, DELICATE_SIGNATURE)]
)
def test_known_vectors_are_reproduced(body: bytes, expected: str) -> None:
    """Meld's published vector, and one that is sensitive to every byte, give the known signatures."""
    actual = sign.sign(secret=SECRET, url=URL, signed_at=SIGNED_AT, body=body)

    assert expected == actual


def test_the_url_is_signed_exactly_as_configured() -> None:
    """A slash at the end of the URL changes the signature."""
    actual = sign.sign(secret=SECRET, url=f"{URL}/", signed_at=SIGNED_AT, body=PUBLISHED_BODY)

    assert actual == "U7Uok2f-iTv8EZ5WefRKBH3J2eF9Se1Sl5lasEE7m0k="


def test_the_headers_contain_the_signed_timestamp() -> None:
    """The timestamp header is the timestamp in the signature."""
    headers = sign.signature_headers(secret=SECRET, url=URL, signed_at=SIGNED_AT, body=PUBLISHED_BODY)

    assert headers == {"Meld-Signature-Timestamp": SIGNED_AT, "Meld-Signature": PUBLISHED_SIGNATURE}


def test_a_timestamp_has_two_formats() -> None:
    """The timestamp is ISO 8601 with microseconds and Z, or Unix seconds."""
    moment = datetime(2022, 5, 26, 20, 25, 17, 682818, tzinfo=UTC)

    assert sign.format_timestamp(moment) == SIGNED_AT
    assert sign.format_timestamp(moment, unix=True) == "1653596717"
