"""The HTTP server as a part of a process: uvicorn on its own thread and event loop."""

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
LAST_SECONDS = 0.5
"""What requests that were cut off at the end of the grace have for their last words."""


class HttpServer:
    """Serves an application.

    Args:
        app: The application.
        host: The address to listen on.
        port: The port; 0 takes a free one, see ``url``.
        on_stop: Told first when it ends: lets go of requests that wait for something.
        protocol: Reads requests and bounds their heads.

    Raises:
        SettingsError: Where the address cannot be listened on; said at once, before anything is started.
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
        """Where it listens."""
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def start(self) -> None:
        """Start serving."""
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests, finish those under way, and end."""
        self._on_stop()
        self._server.should_exit = True
        self._thread.join(GRACE_SECONDS + 2)

    def is_alive(self) -> bool:
        """Return whether it serves."""
        return self._thread.is_alive()

    def _run(self) -> None:
        # Not in the main thread uvicorn leaves the signals alone; they are the process's.
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        await self._server.serve(sockets=[self._socket])
        state = self._server.server_state
        if state.tasks:
            # Requests that were cut off still say so.
            await asyncio.wait(state.tasks, timeout=LAST_SECONDS)
        # Who does not read what was sent to him would keep his connection, and an event loop that is closed.
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
