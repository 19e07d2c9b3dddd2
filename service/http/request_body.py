"""Body: a request's JSON, read within bounds, and strictly into the shape of what may be wanted."""

import asyncio
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect, Request

from service.errors import BodyError, LargeError, SlowError

B = TypeVar("B", bound=BaseModel)

LONGEST_BODY = 64 * 1024
BODY_SECONDS = 10.0
MOST_ERRORS = 5
LONGEST_NAME = 50


async def read_body(request: Request, shape: type[B], *, seconds: float = BODY_SECONDS) -> B:
    """Return what a caller wants.

    Args:
        request: Its request, whose body nobody has read.
        shape: What may be wanted.
        seconds: How long the body may take to come in.

    Raises:
        LargeError: Where it is too long.
        SlowError: Where it does not come in time.
        BodyError: Naming each field that is unknown, missing or out of bounds.
    """
    body = await _read(request, seconds)
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        raise BodyError(" ".join(_sentence(detail, shape) for detail in details[:MOST_ERRORS])) from None


async def _read(request: Request, seconds: float) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > LONGEST_BODY:
                    raise LargeError(f"The body is longer than {LONGEST_BODY} bytes.")
    except TimeoutError:
        raise SlowError(f"The body was not in within {seconds:g} s.") from None
    except ClientDisconnect:
        raise SlowError("The body did not come whole.") from None
    return bytes(body)


def _sentence(detail: ErrorDetails, shape: type[BaseModel]) -> str:
    if not detail["loc"] and detail["type"] == "value_error":
        return detail["msg"].removeprefix("Value error, ")  # a sentence about several fields
    if not detail["loc"]:
        return f"The body is no JSON object: {detail['msg'].removeprefix('Invalid JSON: ')}."
    name = ".".join(str(part) for part in detail["loc"])[:LONGEST_NAME]
    if detail["type"] == "extra_forbidden":
        return f"{name!r} is no field here. There are: {', '.join(shape.model_fields)}."
    return f"{name!r}: {detail['msg'].removeprefix('Value error, ')}."
