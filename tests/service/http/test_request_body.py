import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import Request

from schemas.subscriptions import SubscriptionChange
from service.errors import BodyTimeoutError, BodyTooLargeError, InvalidBodyError
from service.http.request_body import MAX_BODY_BYTES, parse_json_body


def make_request(*messages: dict[str, Any], hangs: bool = False) -> Request:
    """Return a request whose body arrives in pieces, and perhaps never ends."""

    async def pieces() -> AsyncIterator[dict[str, Any]]:
        for message in messages:
            yield message
        if hangs:
            await asyncio.Event().wait()

    stream = pieces()
    scope = {"type": "http", "method": "PATCH", "path": "/", "headers": []}
    return Request(scope, lambda: anext(stream))  # type: ignore[arg-type]


def body_message(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def parse(request: Request, timeout_seconds: float = 5) -> SubscriptionChange:
    return asyncio.run(parse_json_body(request, SubscriptionChange, timeout_seconds=timeout_seconds))


def test_a_body_may_arrive_in_pieces() -> None:
    """It is parsed when it is complete."""
    assert parse(make_request(body_message(b'{"state": ', more=True), body_message(b'"paused"}'))).state == "paused"


def test_a_slow_body_runs_into_the_timeout() -> None:
    """The error names the time."""
    with pytest.raises(BodyTimeoutError, match=r"within 0\.05 s"):
        parse(make_request(body_message(b"{", more=True), hangs=True), timeout_seconds=0.05)


def test_a_disconnect_is_an_error() -> None:
    """The rest of the body never arrives."""
    with pytest.raises(BodyTimeoutError, match="disconnected before the end"):
        parse(make_request(body_message(b"{", more=True), {"type": "http.disconnect"}))


def test_a_body_over_the_limit_is_refused_early() -> None:
    """It is refused as soon as it exceeds the limit."""
    with pytest.raises(BodyTooLargeError):
        parse(make_request(body_message(b" " * MAX_BODY_BYTES, more=True), body_message(b" ", more=True), hangs=True))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b'{"state": "gone"}', "'state': Input should be 'active' or 'paused'"),
        (b'{"nonsense": 1}', "'nonsense' is an unknown field. Known: state, url, types."),
        (b'{"types": ["x", "y"]}', "'types.1'"),
    ],
)
def test_each_invalid_field_is_named(body: bytes, expected: str) -> None:
    """The error has the name of the field and not its value."""
    with pytest.raises(InvalidBodyError) as caught:
        parse(make_request(body_message(body)))

    assert expected in str(caught.value)
