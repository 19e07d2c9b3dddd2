from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from runtime.errors import MeldwatchError, OutOfReachError, UsageError
from service import errors
from service.app import assemble
from service.http import problem_details
from service.http.auth import TokenAuth
from service.http.operation import Operation, ResponseSpec
from service.http.problem_details import status_of


def kinds(base: type[MeldwatchError] = errors.RequestError) -> Iterator[type[MeldwatchError]]:
    """Return the kinds of error that the door itself raises."""
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)


def raising(error: Exception) -> TestClient:
    """Return a client of an application whose one route raises."""

    async def handle(_request: object, _query: object) -> None:
        raise error

    operation = Operation(
        method="GET",
        path="/raise",
        name="raise",
        summary="Raises.",
        need="nothing",
        answers=(ResponseSpec(description="Never."),),
        handle=handle,  # type: ignore[arg-type]
    )
    return TestClient(assemble((operation,), TokenAuth(read_tokens=[], admin_tokens=[])), raise_server_exceptions=False)


@pytest.mark.parametrize("kind", list(kinds()))
def test_every_error_of_the_door_has_a_status(kind: type[MeldwatchError]) -> None:
    """A class exists because somebody acts on it; so it has a status of its own."""
    assert kind in problem_details.STATUSES


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.TokenError(), 401),
        (errors.RightError(), 403),
        (errors.UnknownError("x"), 404),
        (errors.QueryError("x"), 422),
        (errors.CrowdedError(), 503),
        (UsageError("x"), 422),
        (OutOfReachError("x"), 503),
        (errors.RequestError("x"), 500),
    ],
)
def test_the_table_of_statuses(error: MeldwatchError, status: int) -> None:
    """What a caller can act on has a status that says so; the rest is ours to mend."""
    assert status == status_of(error)


def test_a_problem_says_what_was_wrong() -> None:
    """All members of RFC 9457 that a caller needs, in its media type."""
    response = raising(errors.UnknownError("No connection 'x' is known.")).get("/raise")

    expected = {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "No connection 'x' is known."}
    assert (404, expected) == (response.status_code, response.json())
    assert response.headers["content-type"] == "application/problem+json"


def test_a_dependency_that_is_away_is_503() -> None:
    """With the time after which to come again."""
    response = raising(OutOfReachError("The database does not answer.")).get("/raise")

    assert (response.status_code, response.headers["retry-after"]) == (503, "5")
    assert response.json()["detail"] == "The database does not answer."


def test_the_unforeseen_is_500_without_details() -> None:
    """What is inside stays inside."""
    response = raising(ZeroDivisionError("the secret is 42")).get("/raise")

    assert (response.status_code, response.headers["content-type"]) == (500, "application/problem+json")
    assert "42" not in response.text


def test_the_unforeseen_is_handed_to_the_server_to_be_logged() -> None:
    """It is raised again behind the answer: servers log that with its traceback."""
    client = TestClient(raising(ZeroDivisionError("x")).app)

    with pytest.raises(ZeroDivisionError):
        client.get("/raise")


def test_problems_are_safe_to_receive() -> None:
    """No sniffing, no keeping."""
    headers = raising(errors.TokenError()).get("/raise").headers

    assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
