"""The demo: the real service on a throw-away database, beside a simulated Meld that lives, signs and announces."""

import secrets
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import click
from cryptography.fernet import Fernet
from pydantic import SecretStr
from sqlmodel import col, select

from meldwatch.cli.context import settings_for
from meldwatch.cli.output import event_line
from meldwatch.process import supervisor
from meldwatch.process.composition import ProcessComposition
from migrations import run as migrations
from runtime.database import Database
from runtime.settings import Settings
from schemas import tables
from schemas.events import Event
from simulator.server import Simulator

CONNECTIONS = 12
RATE = 1.5


def run(*, host: str | None, port: int | None, threads: int) -> int:
    """Run the demo until it is told to stop; return the exit code."""
    settings = settings_for()
    host = host or settings.host
    port = (settings.port if port is None else port) or _free_port(host)
    url = f"http://{host}:{port}/webhooks/meld"
    secret = secrets.token_urlsafe(16)
    simulator = Simulator(webhook_url=url, webhook_secret=secret, connections=CONNECTIONS, rate=RATE)
    with tempfile.TemporaryDirectory(prefix="meldwatch-demo-") as folder, simulator:
        ours = _settings(settings, folder=Path(folder), meld=simulator.url, url=url, secret=secret)
        served = ProcessComposition(ours, threads=threads)
        try:
            migrations.upgrade(served.database.engine)
            served.add_worker()
            served.add_clock()
            server = served.add_web(host=host, port=port)
            tell = Tell(served.database, click.echo)
            served.listeners.append(tell.notify)
            _introduce(server.url, simulator.url, ours)
            return supervisor.run([*served.parts, tell])
        finally:
            served.close()


class Tell:
    """Prints each event of the feed as it is committed: a part of the demo's process."""

    def __init__(self, database: Database, echo: Callable[[str], None]) -> None:
        self._database = database
        self._echo = echo
        self._position = 0
        self._is_stopping = False
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tell", daemon=True)

    def notify(self) -> None:
        """Look at the feed: there is something new in it."""
        self._news.set()

    def start(self) -> None:
        """Start printing."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._is_stopping = True
        self._news.set()
        self._thread.join(1)

    def is_alive(self) -> bool:
        """Return whether it prints."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._is_stopping:
            self._news.wait()
            self._news.clear()
            with self._database.read() as session:
                new = select(tables.EventRow).where(col(tables.EventRow.position) > self._position)
                rows = session.exec(new.order_by(col(tables.EventRow.position))).all()
            for row in rows:
                self._echo(event_line(Event.from_row(row)))
                self._position = row.position


def _settings(settings: Settings, *, folder: Path, meld: str, url: str, secret: str) -> Settings:
    return settings.model_copy(
        update={
            "database_url": SecretStr(f"sqlite:///{folder / 'demo.db'}"),
            "broker_url": SecretStr("memory://"),
            "meld_api_url": meld,
            "meld_api_key": SecretStr("demo"),
            "meld_authorization": None,
            "webhook_urls": (url,),
            "webhook_secrets": (SecretStr(secret),),
            "encryption_keys": (SecretStr(Fernet.generate_key().decode()),),
            "admin_tokens": settings.admin_tokens or (SecretStr(secrets.token_urlsafe(16)),),
        }
    )


def _introduce(url: str, meld: str, settings: Settings) -> None:
    token = settings.admin_tokens[0].get_secret_value()
    click.echo(f"meldwatch      {url}   (demo: its database is thrown away at the end; Ctrl-C ends it)")
    click.echo(f"simulated Meld {meld}")
    click.echo(f"try            curl -H 'Authorization: Bearer {token}' {url}/api/connections?limit=3")
    click.echo("events, as they happen:")


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
