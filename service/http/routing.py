"""Routing: builds the Starlette routes from operations; authenticates and validates each request before its handler."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.errors import NotFoundError
from service.http.auth import TokenAuth
from service.http.operation import Operation
from service.http.query_params import parse_query
from service.http.request_body import parse_json_body


def make_routes(operations: Iterable[Operation], auth: TokenAuth) -> list[Route]:
    """Return one route for each path, with all methods of that path."""
    paths: dict[str, dict[str, Operation]] = defaultdict(dict)
    for operation in operations:
        paths[operation.path][operation.method] = operation
    return [Route(path, _Endpoint(methods, auth), methods=[*methods]) for path, methods in paths.items()]


class _Endpoint:
    """ASGI endpoint of one path. Starlette would wrap a plain function in one more error handler."""

    def __init__(self, methods: Mapping[str, Operation], auth: TokenAuth) -> None:
        self._methods = methods
        self._auth = auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        operation = self._methods["GET" if request.method == "HEAD" else request.method]
        self._auth.authorize(request, operation.access)
        if any("\x00" in str(value) for value in request.path_params.values()):
            # PostgreSQL raises an error for a NUL in a text parameter.
            raise NotFoundError("No id contains a NUL character.")
        query = parse_query(request.query_params, operation.query_model) if operation.query_model else None
        argument = await parse_json_body(request, operation.body_model) if operation.body_model else query
        response = await operation.handler(request, argument)
        await response(scope, receive, send)
