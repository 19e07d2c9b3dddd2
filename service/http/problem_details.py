"""Problems: what a caller is told when something is wrong, as ``application/problem+json`` (RFC 9457).

The one place that gives errors their HTTP statuses.
"""

from collections.abc import Mapping
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from runtime import logs
from runtime.errors import EncryptionError, MeldwatchError, OutOfReachError, UnsafeUrlError, UsageError
from schemas.api_responses import Problem
from service.errors import (
    BodyError,
    ConflictError,
    CrowdedError,
    LargeError,
    QueryError,
    RightError,
    SlowError,
    TokenError,
    UnknownError,
)
from service.http.responses import reply

log = logs.get(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5

STATUSES: dict[type[MeldwatchError], int] = {
    TokenError: 401,
    RightError: 403,
    UnknownError: 404,
    SlowError: 408,
    ConflictError: 409,
    EncryptionError: 409,
    LargeError: 413,
    QueryError: 422,
    BodyError: 422,
    UnsafeUrlError: 422,
    CrowdedError: 503,
    UsageError: 422,
    OutOfReachError: 503,
    MeldwatchError: 500,
}
"""The status of each kind of error; a kind that is not here has that of its nearest ancestor."""

HEADERS: dict[int, dict[str, str]] = {
    401: {"WWW-Authenticate": "Bearer"},
    503: {"Retry-After": str(RETRY_SECONDS)},
}
"""What belongs to a status beside the body."""

DETAILS: dict[int, str] = {
    404: "There is no such route. See /openapi.json for those that there are.",
    405: "The route does not know this method. The Allow header names those that it knows.",
    500: "Something unforeseen went wrong here, and was logged. Try again; if it stays, tell the operator.",
}


def answer(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response that tells a problem."""
    own = HEADERS.get(problem.status, {})
    return reply(problem, status=problem.status, media_type=MEDIA_TYPE, headers={**own, **(headers or {})})


def describe(status: int, detail: str) -> Problem:
    """Return the problem that goes with a status."""
    return Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)


def status_of(error: MeldwatchError) -> int:
    """Return the HTTP status of an error."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


async def of_error(request: Request, error: Exception) -> Response:
    """Answer an error that a person can act on."""
    assert isinstance(error, MeldwatchError)
    status = status_of(error)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("request not answered", path=request.url.path, error=type(error).__name__, detail=str(error))
    return answer(describe(status, str(error)))


async def of_status(_request: Request, error: Exception) -> Response:
    """Answer for a route or a method that there is not."""
    assert isinstance(error, HTTPException)
    detail = DETAILS.get(error.status_code, error.detail)
    return answer(describe(error.status_code, detail), error.headers)


async def of_unforeseen(_request: Request, _error: Exception) -> Response:
    """Answer for an error that nobody foresaw, without a word about it; the server logs it with its traceback."""
    return answer(describe(500, DETAILS[500]))
