from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from runtime.errors import MeldwatchError, OutOfReachError, UsageError
from service import errors
from service.app import assemble_app
from service.http import error_statuses
from service.http.auth import TokenAuth
from service.http.error_statuses import http_status_of
from service.http.operation import Operation, ResponseSpec


def error_classes(base: type[MeldwatchError] = errors.RequestError) -> Iterator[type[MeldwatchError]]:
    """Return the error classes of the service."""
    for kind in base.__subclasses__():
        yield kind
        yield from error_classes(kind)


def client_of_failing_route(error: Exception) -> TestClient:
    """Return a client of an application with one route that raises."""

    async def handle(_request: object, _query: object) -> None:
        raise error

    operation = Operation(
        method="GET",
        path="/raise",
        operation_id="raise",
        summary="Raises.",
        access="public",
        responses=(ResponseSpec(description="Never."),),
        handler=handle,  # type: ignore[arg-type]
    )
    return TestClient(
        assemble_app((operation,), TokenAuth(read_tokens=[], admin_tokens=[])), raise_server_exceptions=False
    )


@pytest.mark.parametrize("kind", list(error_classes()))
def test_every_error_class_of_the_service_has_a_status(kind: type[MeldwatchError]) -> None:
    """An explicit one, not one of a base class."""
    assert kind in error_statuses.STATUSES


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidTokenError(), 401),
        (errors.ForbiddenError(), 403),
        (errors.NotFoundError("x"), 404),
        (errors.InvalidQueryError("x"), 422),
        (errors.TooManyStreamsError(), 503),
        (UsageError("x"), 422),
        (OutOfReachError("x"), 503),
        (errors.RequestError("x"), 500),
    ],
)
def test_the_table_of_statuses(error: MeldwatchError, status: int) -> None:
    """Errors that a caller can correct are 4xx."""
    assert status == http_status_of(error)


def test_a_problem_has_the_members_of_rfc_9457() -> None:
    """Title, status and detail, with the media type."""
    response = client_of_failing_route(errors.NotFoundError("No connection 'x' is known.")).get("/raise")

    expected = {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "No connection 'x' is known."}
    assert (404, expected) == (response.status_code, response.json())
    assert response.headers["content-type"] == "application/problem+json"


def test_an_unreachable_dependency_is_503() -> None:
    """With a Retry-After header."""
    response = client_of_failing_route(OutOfReachError("The database does not answer.")).get("/raise")

    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert response.json()["detail"] == "The database does not answer."


def test_an_unexpected_error_is_500_without_details() -> None:
    """The response reveals nothing of the exception."""
    response = client_of_failing_route(ZeroDivisionError("the secret is 42")).get("/raise")

    assert (response.status_code, response.headers["content-type"]) == (500, "application/problem+json")
    assert "42" not in response.text


def test_an_unexpected_error_is_raised_to_the_server() -> None:
    """Starlette raises it again after the response, and the server logs its traceback."""
    client = TestClient(client_of_failing_route(ZeroDivisionError("x")).app)

    with pytest.raises(ZeroDivisionError):
        client.get("/raise")


def test_problems_have_the_security_headers() -> None:
    """The headers nosniff and no-store."""
    headers = client_of_failing_route(errors.InvalidTokenError()).get("/raise").headers

    assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
