from schemas.api_responses import RefreshReceipt
from service.http.responses import make_response


def test_a_model_is_serialized() -> None:
    """The response has the security headers and the given ones."""
    response = make_response(RefreshReceipt(connection_id="é"), status=202, headers={"X": "1"})

    expected = {
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
        "x": "1",
        "content-length": "42",
        "content-type": "application/json",
    }
    assert (202, '{"connection_id":"é","state":"requested"}'.encode()) == (response.status_code, response.body)
    assert expected == dict(response.headers)


def test_bytes_are_sent_unchanged() -> None:
    """With the given media type."""
    response = make_response(b"\x00\xff", media_type="application/octet-stream")

    assert (response.body, response.headers["content-type"]) == (b"\x00\xff", "application/octet-stream")
