"""Demo (``meldwatch up --demo``): the real service on a temporary database, beside a simulated Meld."""

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

from meldwatch.cli.context import load_command_settings
from meldwatch.cli.item_lines import format_event
from meldwatch.process import supervisor
from meldwatch.process.composition import ProcessComposition
from migrations import run as migrations
from runtime.database import Database
from runtime.settings import Settings
from schemas import tables
from schemas.events import Event
from simulator.server import Simulator

CONNECTION_COUNT = 12
ACTIONS_PER_SECOND = 1.5


def run(*, host: str | None, port: int | None, threads: int) -> int:
    """Run the demo until SIGTERM or Ctrl-C; return the exit code."""
    settings = load_command_settings()
    host = host or settings.host
    port = (settings.port if port is None else port) or _get_free_port(host)
    url = f"http://{host}:{port}/webhooks/meld"
    secret = secrets.token_urlsafe(16)
    simulator = Simulator(webhook_url=url, webhook_secret=secret, connections=CONNECTION_COUNT, rate=ACTIONS_PER_SECOND)
    with tempfile.TemporaryDirectory(prefix="meldwatch-demo-") as folder, simulator:
        demo_settings = _make_settings(
            settings, folder=Path(folder), meld_url=simulator.url, webhook_url=url, secret=secret
        )
        process = ProcessComposition(demo_settings, threads=threads)
        try:
            migrations.upgrade(process.database.engine)
            process.add_worker()
            process.add_clock()
            server = process.add_web(host=host, port=port)
            printer = EventPrinter(process.database, click.echo)
            process.feed_listeners.append(printer.notify)
            _print_introduction(server.url, simulator.url, demo_settings)
            return supervisor.run([*process.components, printer])
        finally:
            process.close()


class EventPrinter:
    """Prints each event of the feed when it is committed: a component of the demo's process.

    Args:
        database: The database.
        echo: Prints a line.
    """

    def __init__(self, database: Database, echo: Callable[[str], None]) -> None:
        self._database = database
        self._echo = echo
        self._position = 0
        self._is_stopping = False
        self._is_notified = threading.Event()
        self._thread = threading.Thread(target=self._run, name="event-printer", daemon=True)

    def notify(self) -> None:
        """Wake the printer: there are new events in the feed."""
        self._is_notified.set()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._is_stopping = True
        self._is_notified.set()
        self._thread.join(1)

    def is_alive(self) -> bool:
        """Return whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        while not self._is_stopping:
            self._is_notified.wait()
            self._is_notified.clear()
            with self._database.read() as session:
                new = select(tables.EventRow).where(col(tables.EventRow.position) > self._position)
                rows = session.exec(new.order_by(col(tables.EventRow.position))).all()
            for row in rows:
                self._echo(format_event(Event.from_row(row)))
                self._position = row.position


def _make_settings(settings: Settings, *, folder: Path, meld_url: str, webhook_url: str, secret: str) -> Settings:
    return settings.model_copy(
        update={
            "database_url": SecretStr(f"sqlite:///{folder / 'demo.db'}"),
            "broker_url": SecretStr("memory://"),
            "meld_api_url": meld_url,
            "meld_api_key": SecretStr("demo"),
            "meld_authorization": None,
            "webhook_urls": (webhook_url,),
            "webhook_secrets": (SecretStr(secret),),
            "encryption_keys": (SecretStr(Fernet.generate_key().decode()),),
            "admin_tokens": settings.admin_tokens or (SecretStr(secrets.token_urlsafe(16)),),
        }
    )


def _print_introduction(url: str, meld_url: str, settings: Settings) -> None:
    token = settings.admin_tokens[0].get_secret_value()
    click.echo(f"meldwatch      {url}   (demo on a temporary database; Ctrl-C ends it)")
    click.echo(f"simulated Meld {meld_url}")
    click.echo(f"try            curl -H 'Authorization: Bearer {token}' {url}/api/connections?limit=3")
    click.echo("events, as they are emitted:")


def _get_free_port(host: str) -> int:
    with socket.create_server((host, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
