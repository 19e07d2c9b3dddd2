"""An application for tests of the HTTP server: it echoes requests, and its responses can be delayed."""

import threading

import anyio
import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route


class Echo:
    """Echoes requests and lists those that it began to handle.

    Attributes:
        seen: Method and path of every request, in order.
        may_answer: ``/slow`` waits for it.
        app: The application.
    """

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.may_answer = threading.Event()
        routes = {
            "/broken": self._broken,
            "/client": self._client,
            "/echo": self._echo,
            "/forever": self._forever,
            "/headers": self._headers,
            "/ignore": self._ignore,
            "/slow": self._slow,
        }
        self.app = Starlette(routes=[Route(path, work, methods=["GET", "POST"]) for path, work in routes.items()])

    async def _echo(self, request: Request) -> Response:
        self._record(request)
        try:
            return Response(await request.body())
        except ClientDisconnect:
            return Response(status_code=400)

    async def _slow(self, request: Request) -> Response:
        self._record(request)
        await anyio.to_thread.run_sync(self.may_answer.wait)
        return Response(b"slow")

    async def _forever(self, request: Request) -> Response:
        self._record(request)
        await anyio.sleep_forever()
        return Response()

    async def _broken(self, request: Request) -> Response:
        self._record(request)
        raise RuntimeError("secret")

    async def _client(self, request: Request) -> Response:
        self._record(request)
        return Response(f"{request.url.scheme} {request.client.host if request.client else ''}")

    async def _ignore(self, request: Request) -> Response:
        self._record(request)
        return Response(b"ignored")

    async def _headers(self, request: Request) -> Response:
        self._record(request)
        await request.body()
        return Response(b",".join(name for name, _ in request.headers.raw))

    def _record(self, request: Request) -> None:
        self.seen.append(f"{request.method} {request.url.path}")
