"""HTTP server component: uvicorn in its own thread with its own event loop; graceful shutdown."""

import asyncio
import socket
import threading
from collections.abc import Callable

import uvicorn
import uvloop
from starlette.types import ASGIApp

from meldwatch.process.http_protocol import BoundedHttpProtocol
from runtime.errors import SettingsError

GRACE_SECONDS = 3
CANCELLED_REQUEST_SECONDS = 0.5
"""Time for requests that were cancelled at the end of the grace period to send their responses."""


class HttpServer:
    """Serves an application.

    Args:
        app: The application.
        host: The address to listen on.
        port: The port; 0 takes a free one, see ``url``.
        on_stop: Called first when the server stops: ends requests that wait, such as long polls and streams.
        protocol: Parses requests and limits their heads.

    Raises:
        SettingsError: If the server cannot listen on the address. It listens before it is started.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        port: int,
        on_stop: Callable[[], None],
        protocol: type[BoundedHttpProtocol] = BoundedHttpProtocol,
    ) -> None:
        self._on_stop = on_stop
        self._socket = _listen(host, port)
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=GRACE_SECONDS,
                timeout_keep_alive=30,
            )
        )
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)

    @property
    def url(self) -> str:
        """The URL of the server."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop gracefully: accept no more requests, and finish those that run."""
        self._on_stop()
        self._server.should_exit = True
        self._thread.join(GRACE_SECONDS + 2)

    def is_alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        # Outside the main thread, uvicorn does not handle signals; the supervisor does.
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        await self._server.serve(sockets=[self._socket])
        state = self._server.server_state
        if state.tasks:
            # Requests that were cancelled still send a response.
            await asyncio.wait(state.tasks, timeout=CANCELLED_REQUEST_SECONDS)
        # A client that does not read its response would keep its connection open on a closed event loop.
        for connection in list(state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        hint = "Set MELDWATCH_HOST and MELDWATCH_PORT, or --host and --port."
        raise SettingsError(f"Cannot listen on {host}:{port} ({error.strerror}). {hint}") from None
