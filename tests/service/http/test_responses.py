from schemas.api_responses import RefreshReceipt
from service.http.responses import reply


def test_a_shape_is_sent_as_json() -> None:
    """Safe to receive, with headers of its own beside."""
    response = reply(RefreshReceipt(connection_id="é"), status=202, headers={"X": "1"})

    expected = {
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
        "x": "1",
        "content-length": "42",
        "content-type": "application/json",
    }
    assert (202, '{"connection_id":"é","state":"requested"}'.encode()) == (response.status_code, response.body)
    assert expected == dict(response.headers)


def test_bytes_are_sent_as_they_are() -> None:
    """In the media type that they are said to be."""
    response = reply(b"\x00\xff", media_type="application/octet-stream")

    assert (response.body, response.headers["content-type"]) == (b"\x00\xff", "application/octet-stream")
