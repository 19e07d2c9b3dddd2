"""JSON request bodies: read with a size limit and a timeout, then validated strictly against a model."""

import asyncio
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from service.errors import BodyTimeoutError, BodyTooLargeError, InvalidBodyError
from service.http.validation_errors import describe_errors

B = TypeVar("B", bound=BaseModel)

MAX_BODY_BYTES = 64 * 1024
BODY_TIMEOUT_SECONDS = 10.0


async def parse_json_body(request: Request, model: type[B], *, timeout_seconds: float = BODY_TIMEOUT_SECONDS) -> B:
    """Return the request body as a model.

    Args:
        request: A request whose body was not read yet.
        model: The model of the body.
        timeout_seconds: How long receiving the body may take.

    Raises:
        BodyTooLargeError: The body is longer than ``MAX_BODY_BYTES``.
        BodyTimeoutError: The body did not arrive completely in time.
        InvalidBodyError: A field is unknown, missing or out of range; the message names it.
    """
    body = await _read(request, timeout_seconds)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise InvalidBodyError(describe_errors(error, model, "field")) from None


async def _read(request: Request, timeout_seconds: float) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise BodyTooLargeError(f"The body is longer than {MAX_BODY_BYTES} bytes.")
    except TimeoutError:
        raise BodyTimeoutError(f"The body did not arrive within {timeout_seconds:g} s.") from None
    except ClientDisconnect:
        raise BodyTimeoutError("The client disconnected before the end of the body.") from None
    return bytes(body)
