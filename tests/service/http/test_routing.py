from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient

from schemas.api_queries import PageQuery
from service.app import assemble_app
from service.http.auth import TokenAuth
from service.http.operation import Operation, ResponseSpec
from service.http.responses import make_response


async def echo(request: Request, query: PageQuery | None) -> Response:
    """Return the parsed argument."""
    limit = str(query.limit) if query else "none"
    return make_response(f"{request.method} {limit}".encode(), media_type="text/plain")


def operation(method: str, query: type[PageQuery] | None = None) -> Operation:
    """Return an operation."""
    return Operation(
        method=method,  # type: ignore[arg-type]
        path="/thing/{id}",
        operation_id=f"{method}Thing",
        summary="Echoes.",
        access="public",
        query_model=query,
        responses=(ResponseSpec(description="The parsed argument.", media_type="text/plain"),),
        handler=echo,
    )


def client() -> TestClient:
    """Return a client of one path with two methods."""
    operations = (operation("GET", PageQuery), operation("DELETE"))
    return TestClient(assemble_app(operations, TokenAuth(read_tokens=[], admin_tokens=[])))


def test_methods_of_one_path_share_a_route() -> None:
    """Each has its own handler and query; the Allow header lists both."""
    test_client = client()

    texts = [test_client.get("/thing/1?limit=7").text, test_client.delete("/thing/1?limit=x").text]
    refused = test_client.post("/thing/1")

    assert texts == ["GET 7", "DELETE none"]
    assert (405, {"GET", "HEAD", "DELETE"}) == (refused.status_code, set(refused.headers["allow"].split(", ")))


def test_an_id_with_nul_is_not_found() -> None:
    """It never reaches the handler."""
    assert client().get("/thing/a%00b").status_code == 404
