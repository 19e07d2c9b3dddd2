"""Problem details: error responses as ``application/problem+json`` (RFC 9457)."""

from collections.abc import Mapping
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from runtime import logs
from runtime.errors import MeldwatchError
from schemas.api_responses import Problem
from service.http.error_statuses import http_status_of
from service.http.responses import make_response

log = logs.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5

HEADERS: dict[int, dict[str, str]] = {
    401: {"WWW-Authenticate": "Bearer"},
    503: {"Retry-After": str(RETRY_AFTER_SECONDS)},
}
"""Response headers by status."""

DETAILS: dict[int, str] = {
    404: "There is no such route. See /openapi.json for all routes.",
    405: "The route does not support this method. The Allow header lists the supported methods.",
    500: "An unexpected error occurred and was logged. Try again; if it persists, contact the operator.",
}


def problem_response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response for a problem, with the headers that belong to its status."""
    status_headers = HEADERS.get(problem.status, {})
    return make_response(
        problem, status=problem.status, media_type=MEDIA_TYPE, headers={**status_headers, **(headers or {})}
    )


def make_problem(status: int, detail: str) -> Problem:
    """Return the problem for a status, with the status' standard title."""
    return Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)


async def handle_meldwatch_error(request: Request, error: Exception) -> Response:
    """Answer an error whose text is written for the caller."""
    assert isinstance(error, MeldwatchError)
    status = http_status_of(error)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("request failed", path=request.url.path, error=type(error).__name__, detail=str(error))
    return problem_response(make_problem(status, str(error)))


async def handle_http_exception(_request: Request, error: Exception) -> Response:
    """Answer an unknown route or an unsupported method."""
    assert isinstance(error, HTTPException)
    detail = DETAILS.get(error.status_code, error.detail)
    return problem_response(make_problem(error.status_code, detail), error.headers)


async def handle_unexpected_error(_request: Request, _error: Exception) -> Response:
    """Answer any other exception without revealing it; the server logs it with its traceback."""
    return problem_response(make_problem(500, DETAILS[500]))
