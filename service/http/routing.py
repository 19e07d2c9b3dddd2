"""Routes: made of operations, so that what is answered and what is documented cannot drift apart."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.errors import UnknownError
from service.http.auth import TokenAuth
from service.http.operation import Operation
from service.http.query_params import read_query
from service.http.request_body import read_body


def make_routes(operations: Iterable[Operation], access: TokenAuth) -> list[Route]:
    """Return one route for each path, which knows all methods of it."""
    paths: dict[str, dict[str, Operation]] = defaultdict(dict)
    for operation in operations:
        paths[operation.path][operation.method] = operation
    return [Route(path, _Endpoint(methods, access), methods=[*methods]) for path, methods in paths.items()]


class _Endpoint:
    """The operations of one path. An application of its own: a function would be wrapped once more for its errors."""

    def __init__(self, methods: Mapping[str, Operation], access: TokenAuth) -> None:
        self._methods = methods
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        operation = self._methods["GET" if request.method == "HEAD" else request.method]
        self._access.check(request, operation.need)
        if any("\x00" in str(value) for value in request.path_params.values()):
            raise UnknownError("Nothing has an id with a NUL in it.")  # and PostgreSQL would not even look for it
        query = read_query(request.query_params, operation.query) if operation.query else None
        asked = await read_body(request, operation.takes) if operation.takes else query
        response = await operation.handle(request, asked)
        await response(scope, receive, send)
