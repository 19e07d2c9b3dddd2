"""Routes: made of operations, so that what is answered and what is documented cannot drift apart."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.access import Access
from service.errors import UnknownError
from service.operation import Operation
from service.query import read_query


def make_routes(operations: Iterable[Operation], access: Access) -> list[Route]:
    """Return one route for each path, which knows all methods of it."""
    paths: dict[str, dict[str, Operation]] = defaultdict(dict)
    for operation in operations:
        paths[operation.path][operation.method] = operation
    return [Route(path, _endpoint(methods, access), methods=[*methods]) for path, methods in paths.items()]


def _endpoint(methods: Mapping[str, Operation], access: Access) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        operation = methods["GET" if request.method == "HEAD" else request.method]
        access.check(request, operation.need)
        if any("\x00" in str(value) for value in request.path_params.values()):
            raise UnknownError("Nothing has an id with a NUL in it.")  # and PostgreSQL would not even look for it
        query = read_query(request.query_params, operation.query) if operation.query else None
        return await operation.handle(request, query)

    return endpoint
