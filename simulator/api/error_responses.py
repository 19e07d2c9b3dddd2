"""How wishes that cannot be granted are answered: Meld's envelope on its face, RFC 9457 on ours."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from simulator.errors import AbsentError, ImpossibleError, MalformedError, RefusedError
from simulator.ids import iso

if TYPE_CHECKING:
    from datetime import datetime

STATUSES: dict[type[Exception], int] = {
    AbsentError: 404,
    ImpossibleError: 409,
    MalformedError: 400,
    RefusedError: 401,
}
CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHORIZED",
    404: "NOT_FOUND",
    409: "CONFLICT",
    429: "TOO_MANY_REQUESTS",
    500: "UNKNOWN",
}


def status_of(error: Exception) -> int:
    """The code for an error of ours, or of the framework's."""
    if isinstance(error, HTTPException):
        return error.status_code
    return STATUSES[type(error)]


def message_of(error: Exception) -> str:
    """What the error has to say."""
    return error.detail if isinstance(error, HTTPException) else str(error)


def meld_error(status: int, message: str, *, request_id: str, now: datetime, listed: bool) -> dict[str, Any]:
    """Meld's error body; its documentation names two forms."""
    error = {
        "code": CODES.get(status, "UNKNOWN"),
        "message": message,
        "requestId": request_id,
        "timestamp": iso(now),
    }
    return {"errors": [error]} if listed else error


def problem(error: Exception) -> JSONResponse:
    """The same for whoever steers: a title, the code, and a sentence."""
    status = status_of(error)
    content = {"title": HTTPStatus(status).phrase, "status": status, "detail": message_of(error)}
    return JSONResponse(content, status_code=status, media_type="application/problem+json")
