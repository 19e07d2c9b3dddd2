"""Threads: the few in which the API works on the rows.

A slow query holds up neither the event loop nor the webhooks, which have a thread of their own.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from service.http.responses import dump, reply

P = ParamSpec("P")
T = TypeVar("T")
Q = TypeVar("Q")

COUNT = 8
"""Threads at most; each holds one connection to the database while it works."""


class ThreadPool:
    """The API's threads."""

    def __init__(self, count: int = COUNT) -> None:
        self._limiter = CapacityLimiter(count)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in a thread and return what it returns."""
        return await to_thread.run_sync(partial(function, *args, **kwargs), limiter=self._limiter)

    def handler(
        self, work: Callable[[Request, Q], BaseModel], *, status: int = 200
    ) -> Callable[[Request, Q], Awaitable[Response]]:
        """Return a handler that has its answer made, and written as JSON, in a thread."""

        async def handle(request: Request, query: Q) -> Response:
            return reply(await self.run(lambda: dump(work(request, query))), status=status)

        return handle
