"""Error responses: Meld's error envelope for its API, problem details (RFC 9457) for the control API."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from simulator.errors import AbsentError, ImpossibleError, MalformedError, RefusedError
from simulator.ids import format_time

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


def error_status(error: Exception) -> int:
    """Return the status code of an error of the simulator or of Starlette."""
    if isinstance(error, HTTPException):
        return error.status_code
    return STATUSES[type(error)]


def error_message(error: Exception) -> str:
    """Return the message of an error of the simulator or of Starlette."""
    return error.detail if isinstance(error, HTTPException) else str(error)


def meld_error_body(status: int, message: str, *, request_id: str, now: datetime, listed: bool) -> dict[str, Any]:
    """Return Meld's error body, in one of the two forms that its documentation shows."""
    error = {
        "code": CODES.get(status, "UNKNOWN"),
        "message": message,
        "requestId": request_id,
        "timestamp": format_time(now),
    }
    return {"errors": [error]} if listed else error


def problem_response(error: Exception) -> JSONResponse:
    """Return problem details: title, status and detail."""
    status = error_status(error)
    content = {"title": HTTPStatus(status).phrase, "status": status, "detail": error_message(error)}
    return JSONResponse(content, status_code=status, media_type="application/problem+json")
