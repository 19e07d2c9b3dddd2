"""The simulated Meld as an ASGI application, and as an HTTP server in its own thread."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING, Self

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from simulator.api.endpoints import MeldApi
from simulator.control.endpoints import ControlApi
from simulator.faults.settings import NO_FAULTS, Faults
from simulator.http_protocol import AbortableProtocol
from simulator.simulation import Simulation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from types import TracebackType

    from simulator.faults.read_script import ReadScript
    from simulator.read_log import ReadLog
    from simulator.webhooks.outbox import WebhookOutbox
    from simulator.webhooks.outgoing_webhook import OutgoingWebhook
    from simulator.world.webhook_payloads import WebhookEvent
    from simulator.world.world import World

BACKLOG = 2048


def create_app(simulation: Simulation) -> Starlette:
    """Return Meld's API and the control API in one application; its lifespan delivers webhooks."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with simulation.running():
            yield

    control = ControlApi(simulation)
    routes = [
        Route("/sim", control.summary, methods=["GET"]),
        Mount("/sim", control.app()),
        Mount("/", MeldApi(simulation).app()),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


class Simulator:
    """A simulated Meld with an HTTP server in a thread; also a context manager."""

    def __init__(
        self,
        *,
        webhook_url: str,
        webhook_secret: str,
        api_key: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        connections: int = 0,
        rate: float = 0.0,
        seed: int = 1,
        faults: Faults = NO_FAULTS,
        time_scale: float = 1.0,
    ) -> None:
        self._host = host
        self._port = port
        self._simulation = Simulation(
            webhook_url=webhook_url,
            webhook_secret=webhook_secret,
            api_key=api_key,
            connections=connections,
            rate=rate,
            seed=seed,
            faults=faults,
            time_scale=time_scale,
        )
        self._server: _Server | None = None
        self._thread: Thread | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """The base URL; empty before the start."""
        return self._url

    @property
    def world(self) -> World:
        """The simulated account. Its actions return webhook events, which only send_webhooks() sends."""
        return self._simulation.world

    @property
    def reads(self) -> ReadLog:
        """The log of reads."""
        return self._simulation.reads

    @property
    def script(self) -> ReadScript:
        """The script for the next reads."""
        return self._simulation.script

    @property
    def outbox(self) -> WebhookOutbox:
        """The outbox of webhooks."""
        return self._simulation.outbox

    @property
    def faults(self) -> Faults:
        """The faults in effect."""
        return self._simulation.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._simulation.faults = faults

    def send_webhooks(self, events: Iterable[WebhookEvent]) -> list[OutgoingWebhook]:
        """Send the webhook events of an action."""
        return self._simulation.send_webhooks(events)

    def start(self) -> None:
        """Start the server.

        Raises:
            OSError: The port is in use.
        """
        listener = _listen(self._host, self._port)
        host, port = listener.getsockname()[:2]
        self._url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        # _serve() runs the lifespan around the server, so that a stop need not wait for hanging answers.
        config = uvicorn.Config(
            create_app(self._simulation), http=AbortableProtocol, lifespan="off", log_config=None, backlog=BACKLOG
        )
        self._server = _Server(config)
        self._thread = Thread(target=self._run, args=(self._server, listener), name="simulated-meld", daemon=True)
        self._thread.start()
        self._server.ready.wait()

    def stop(self) -> None:
        """Stop within about a second; requests and deliveries under way are aborted."""
        if self._server and self._thread:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self, server: _Server, listener: socket.socket) -> None:
        try:
            with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
                runner.run(self._serve(server, listener))
        finally:
            # start() must not wait for ever after a failure.
            server.ready.set()

    async def _serve(self, server: _Server, listener: socket.socket) -> None:
        async with self._simulation.running():
            await server.serve(sockets=[listener])
            server.drop_connections()


class _Server(uvicorn.Server):
    """A server with an event that is set once it has started."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    def drop_connections(self) -> None:
        """Abort open connections, so that the client of a pending answer sees a lost connection and not an error."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
