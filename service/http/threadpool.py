"""Thread pool of the API: blocking database work runs here, off the event loop.

A slow query blocks neither the event loop nor the webhook inbox, which has a thread of its own.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from service.http.responses import make_response, to_json

P = ParamSpec("P")
T = TypeVar("T")
Q = TypeVar("Q")

MAX_THREADS = 8
"""Each thread holds one database connection while it works."""


class ThreadPool:
    """Runs blocking functions in a bounded number of threads.

    Args:
        max_threads: Functions that run at the same time; further ones wait.
    """

    def __init__(self, max_threads: int = MAX_THREADS) -> None:
        self._limiter = CapacityLimiter(max_threads)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a thread and return its result."""
        return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=self._limiter)

    def handler(
        self, function: Callable[[Request, Q], BaseModel], *, status: int = 200
    ) -> Callable[[Request, Q], Awaitable[Response]]:
        """Return an operation's handler that runs a function in a thread and serializes its result there.

        Args:
            function: Takes the request and its parsed query or body, returns the model of the response.
            status: The HTTP status of the response.
        """

        async def handle(request: Request, argument: Q) -> Response:
            return make_response(await self.run(lambda: to_json(function(request, argument))), status=status)

        return handle
