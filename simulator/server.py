"""The simulated Meld as an ASGI application, and as a server in a thread of its own."""

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
from simulator.http_protocol import SeverableProtocol
from simulator.simulation import Simulation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from types import TracebackType

    from simulator.read_log import ReadLog, Script
    from simulator.webhooks.mailbox import Mailbox
    from simulator.webhooks.outgoing_webhook import OutgoingWebhook
    from simulator.world.webhook_payloads import Announcement
    from simulator.world.world import World

BACKLOG = 2048


def create_app(stage: Simulation) -> Starlette:
    """Meld's API and the steering in one application; webhooks leave while its lifespan runs."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with stage.running():
            yield

    steering = ControlApi(stage)
    routes = [
        Route("/sim", steering.summary, methods=["GET"]),
        Mount("/sim", steering.app()),
        Mount("/", MeldApi(stage).app()),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


class Simulator:
    """A simulated Meld on a socket: start it, use it, stop it.

    A port that is in use is an OSError of start().
    """

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
        self._stage = Simulation(
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
        """Where it listens; known once it is started."""
        return self._url

    @property
    def world(self) -> World:
        """The truth. What its acts announce is not sent unless it is told."""
        return self._stage.world

    @property
    def reads(self) -> ReadLog:
        """The reads it has answered."""
        return self._stage.reads

    @property
    def script(self) -> Script:
        """What is to be done to the next reads."""
        return self._stage.script

    @property
    def mailbox(self) -> Mailbox:
        """The webhooks it has made."""
        return self._stage.mailbox

    @property
    def faults(self) -> Faults:
        """What goes wrong at present."""
        return self._stage.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._stage.faults = faults

    def tell(self, announcements: Iterable[Announcement]) -> list[OutgoingWebhook]:
        """Send what an act of the world has announced."""
        return self._stage.tell(announcements)

    def start(self) -> None:
        """Listen, and answer from now on."""
        listener = _listen(self._host, self._port)
        host, port = listener.getsockname()[:2]
        self._url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        # The lifespan is run around the server, so that stopping need not wait for answers that hang.
        config = uvicorn.Config(
            create_app(self._stage), http=SeverableProtocol, lifespan="off", log_config=None, backlog=BACKLOG
        )
        self._server = _Server(config)
        self._thread = Thread(target=self._run, args=(self._server, listener), name="simulated-meld", daemon=True)
        self._thread.start()
        self._server.ready.wait()

    def stop(self) -> None:
        """End within about a second; whatever is under way is dropped."""
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
            # Whoever waits for the start must not wait for ever if it failed.
            server.ready.set()

    async def _serve(self, server: _Server, listener: socket.socket) -> None:
        async with self._stage.running():
            await server.serve(sockets=[listener])
            server.drop_connections()


class _Server(uvicorn.Server):
    """Says when it has started."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    def drop_connections(self) -> None:
        """Break what is still open, so that an answer under way ends as a lost connection and not as an error."""
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
