import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import Request

from schemas.subscriptions import SubscriptionChange
from service.errors import BodyError, LargeError, SlowError
from service.http.request_body import LONGEST_BODY, read_body


def coming(*messages: dict[str, Any], hangs: bool = False) -> Request:
    """Return a request whose body comes in pieces, and perhaps never ends."""

    async def pieces() -> AsyncIterator[dict[str, Any]]:
        for message in messages:
            yield message
        if hangs:
            await asyncio.Event().wait()

    stream = pieces()
    scope = {"type": "http", "method": "PATCH", "path": "/", "headers": []}
    return Request(scope, lambda: anext(stream))  # type: ignore[arg-type]


def piece(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def read(request: Request, seconds: float = 5) -> SubscriptionChange:
    return asyncio.run(read_body(request, SubscriptionChange, seconds=seconds))


def test_a_body_may_come_in_pieces() -> None:
    """It is put together before it is read."""
    assert read(coming(piece(b'{"state": ', more=True), piece(b'"paused"}'))).state == "paused"


def test_one_that_hangs_is_left() -> None:
    """After its time."""
    with pytest.raises(SlowError, match=r"within 0\.05 s"):
        read(coming(piece(b"{", more=True), hangs=True), seconds=0.05)


def test_one_that_breaks_is_no_body() -> None:
    """Whoever sent it has gone."""
    with pytest.raises(SlowError, match="not come whole"):
        read(coming(piece(b"{", more=True), {"type": "http.disconnect"}))


def test_one_that_is_too_long_is_not_read_to_its_end() -> None:
    """It is refused as soon as that shows."""
    with pytest.raises(LargeError):
        read(coming(piece(b" " * LONGEST_BODY, more=True), piece(b" ", more=True), hangs=True))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "no JSON object"),
        (b"[]", "no JSON object"),
        (b'{"state": "gone"}', "'state': Input should be 'active' or 'paused'"),
        (b'{"nonsense": 1}', "'nonsense' is no field here. There are: state, url, types."),
        (b'{"types": ["x", "y"]}', "'types.1'"),
    ],
)
def test_what_is_wrong_is_named(body: bytes, said: str) -> None:
    """Field by field, without the value."""
    with pytest.raises(BodyError) as caught:
        read(coming(piece(body)))

    assert said in str(caught.value)
