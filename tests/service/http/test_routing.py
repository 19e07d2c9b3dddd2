from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient

from schemas.api_queries import Paged
from service.app import assemble
from service.http.auth import TokenAuth
from service.http.operation import Operation, ResponseSpec
from service.http.responses import reply


async def echo(request: Request, query: Paged | None) -> Response:
    """Answer with what was understood."""
    limit = str(query.limit) if query else "none"
    return reply(f"{request.method} {limit}".encode(), media_type="text/plain")


def operation(method: str, query: type[Paged] | None = None) -> Operation:
    """Return one method of one path."""
    return Operation(
        method=method,  # type: ignore[arg-type]
        path="/thing/{id}",
        name=f"{method}Thing",
        summary="Echoes.",
        need="nothing",
        query=query,
        answers=(ResponseSpec(description="What was understood.", media_type="text/plain"),),
        handle=echo,
    )


def client() -> TestClient:
    """Return a client of one path with two methods."""
    operations = (operation("GET", Paged), operation("DELETE"))
    return TestClient(assemble(operations, TokenAuth(read_tokens=[], admin_tokens=[])))


def test_methods_of_one_path_share_a_route() -> None:
    """Each has its own handler and its own query, and a third is told of both."""
    asked = client()

    texts = [asked.get("/thing/1?limit=7").text, asked.delete("/thing/1?limit=x").text]
    refused = asked.post("/thing/1")

    assert texts == ["GET 7", "DELETE none"]
    assert (405, {"GET", "HEAD", "DELETE"}) == (refused.status_code, set(refused.headers["allow"].split(", ")))


def test_an_id_with_nul_is_unknown() -> None:
    """It never reaches a handler."""
    assert client().get("/thing/a%00b").status_code == 404
