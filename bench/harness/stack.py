"""The stack: databases, brokers, Melds and our own processes, all real, all ended with the run that started them."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import psutil
import psycopg
from sqlalchemy import text

from bench.harness import postgres
from bench.harness.signed_webhooks import ENCRYPTION_KEY, SECRET, url_of
from bench.harness.simulated_meld import Simulated
from migrations import run as migrations
from runtime.database import Database
from tests.support.polling import poll
from tests.support.servers import Run, free_ports, start_valkey

ROOT = Path(__file__).parent.parent
TOKEN = "bench-token"
MELDWATCH = ("-c", "from meldwatch.main import main; main()")
START_SECONDS = 30
STOP_SECONDS = 12


class BenchError(Exception):
    """Something did not start, or did not come about in time; nothing was measured."""


def until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for something.

    Raises:
        BenchError: Where it does not come about in time.
    """
    if not poll(condition, seconds):
        raise BenchError(f"{what} did not come about within {seconds:g} s")


class Child:
    """A process of ours, or one beside it."""

    def __init__(self, name: str, command: tuple[str, ...], *, folder: Path, env: dict[str, str]) -> None:
        self.name = name
        self.output = folder / f"{name}.log"
        # Away from the repository, where an operator's .env may lie.
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **env}
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, *command], cwd=folder, env=environment, stdout=output, stderr=output
            )
        self.pid = self._process.pid

    def wait_for_port(self, port: int) -> None:
        """Wait until it listens."""
        until(lambda: self._process.poll() is not None or _is_listening(port), START_SECONDS, f"{self.name}'s start")
        if self._process.poll() is not None:
            raise BenchError(f"{self.name} ended:\n{self.output.read_text()[-4000:]}")

    def freeze(self) -> None:
        """Stop it where it is, as a machine that hangs would, until ``thaw``."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def is_running(self) -> bool:
        """Return whether it has not ended by itself."""
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """What it ended with; None while it runs."""
        return self._process.poll()

    def cpu_seconds(self) -> float:
        """Return the processor time that it has taken."""
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system

    def stop(self) -> None:
        """End it."""
        self.thaw()
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Stack:
    """What one run of the bench shares: a directory, a PostgreSQL and a Valkey, started when first asked for.

    Args:
        run: Its directory and lock.
        is_quick: Whether to do as little as shows that everything works; figures of a quick run mean nothing.
    """

    def __init__(self, run: Run, *, is_quick: bool) -> None:
        self.is_quick = is_quick
        self._run = run
        self._numbers = itertools.count(1)

    @cached_property
    def postgres_url(self) -> str:
        """The server's own database."""
        return postgres.start(self._run).url

    @cached_property
    def _valkey_url(self) -> str:
        return start_valkey(self._run).url

    def folder(self) -> Path:
        """Return a new folder that goes with the run."""
        folder = self._run.directory / f"bench-{next(self._numbers)}"
        folder.mkdir()
        return folder

    def new_postgres(self) -> str:
        """Return the URL of a new, migrated database on PostgreSQL."""
        name = f"bench_{next(self._numbers)}"
        with psycopg.connect(self.postgres_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return _migrated(self.postgres_url.removesuffix("postgres") + name)

    def new_sqlite(self) -> str:
        """Return the URL of a new, migrated database on SQLite."""
        return _migrated(f"sqlite:///{self.folder()}/meldwatch.db")

    def new_broker(self) -> str:
        """Return the URL of an empty database on Valkey."""
        return self._valkey_url.removesuffix("0") + str(next(self._numbers))

    @contextlib.contextmanager
    def child(
        self, name: str, *command: str, port: int | None = None, env: dict[str, str] | None = None
    ) -> Iterator[Child]:
        """Run a process, from when it listens until the block ends."""
        child = Child(name, command, folder=self.folder(), env=env or {})
        try:
            if port is not None:
                child.wait_for_port(port)
            yield child
        finally:
            child.stop()

    @contextlib.contextmanager
    def simulated_meld(self, webhook_port: int, latency_ms: float, *, connections: int = 0) -> Iterator[Simulated]:
        """Run the simulated Meld, which signs for whoever listens on that port."""
        (port,) = free_ports(1)
        env = {"MELDWATCH_WEBHOOK_URLS": url_of(webhook_port), "MELDWATCH_WEBHOOK_SECRETS": SECRET}
        options = [
            "--port",
            str(port),
            "--connections",
            str(connections),
            "--rate",
            "0",
            "--faults",
            f"latency_ms={latency_ms:g}",
        ]
        with self.child("simulate", *MELDWATCH, "simulate", *options, port=port, env=env):
            yield Simulated(port)

    @contextlib.contextmanager
    def quick_meld(self, latency: float) -> Iterator[Simulated]:
        """Run the stand-in that costs next to nothing."""
        (port,) = free_ports(1)
        with self.child("meld", "-m", "bench.harness.quick_meld", str(port), str(latency), port=port):
            yield Simulated(port)


Env = Mapping[str, str] | None


class Service:
    """Our processes over one database and one broker, beside one Meld.

    Attributes:
        name: The kind of set-up, for the tables.
        port: Where the web side listens.
        children: The processes that run, by command.
    """

    def __init__(
        self,
        stack: Stack,
        *,
        name: str,
        port: int,
        meld: str,
        database: str,
        broker: str,
        timeout: float = 20,
        env: Env = None,
    ) -> None:
        self.name = name
        self.port = port
        self.children: dict[str, Child] = {}
        self.database = Database(database, pool_size=2)
        self._stack = stack
        self.env = {
            "MELDWATCH_DATABASE_URL": database,
            "MELDWATCH_BROKER_URL": broker,
            "MELDWATCH_MELD_API_URL": meld,
            "MELDWATCH_MELD_API_KEY": "bench",
            "MELDWATCH_MELD_TIMEOUT_SECONDS": str(timeout),
            "MELDWATCH_WEBHOOK_URLS": url_of(port),
            "MELDWATCH_WEBHOOK_SECRETS": SECRET,
            "MELDWATCH_ENCRYPTION_KEYS": ENCRYPTION_KEY,
            "MELDWATCH_ADMIN_TOKENS": TOKEN,
            "MELDWATCH_PUSH_ALLOWED_NETWORKS": "127.0.0.0/8",
            "MELDWATCH_PORT": str(port),
            "MELDWATCH_LOG_FORMAT": "json",
            **(env or {}),
        }

    @property
    def url(self) -> str:
        """The webhook URL."""
        return url_of(self.port)

    @contextlib.contextmanager
    def running(self, command: str, *options: str, name: str | None = None) -> Iterator[Child]:
        """Run one of our commands until the block ends."""
        port = self.port if command in {"up", "web"} else None
        with self._stack.child(name or command, *MELDWATCH, command, *options, port=port, env=self.env) as child:
            self.children[name or command] = child
            yield child

    def owed(self) -> int:
        """Return how many connections a read is owed to."""
        return self._count("job WHERE requested > completed")

    def is_read(self) -> bool:
        """Return whether no read is owed but some that wait, to confirm what was seen."""
        return not self._count("job WHERE requested > completed AND trigger <> 'recheck'")

    def rows(self, table: str) -> int:
        """Return how many rows a table has."""
        return self._count(table)

    def wait_until_quiet(self, seconds: float = 120) -> None:
        """Wait until no read is owed to any connection."""
        until(lambda: self.owed() == 0, seconds, "the end of all work")

    def _count(self, rows: str) -> int:
        with self.database.read() as session:
            return int(session.connection().execute(text(f"SELECT count(*) FROM {rows}")).scalar_one())


Setup = Callable[..., contextlib.AbstractContextManager[Service]]


@contextlib.contextmanager
def embedded(
    stack: Stack, *, port: int, meld: str, threads: int = 8, timeout: float = 20, env: Env = None
) -> Iterator[Service]:
    """Run everything in one process, ``up``, over SQLite and the broker inside it."""
    own = {"name": "embedded", "database": stack.new_sqlite(), "broker": "memory://"}
    service = Service(stack, port=port, meld=meld, timeout=timeout, env=env, **own)
    with contextlib.closing(service.database), service.running("up", "--threads", str(threads)):
        yield service


@contextlib.contextmanager
def spread(
    stack: Stack, *, port: int, meld: str, threads: int = 8, timeout: float = 20, workers: int = 1, env: Env = None
) -> Iterator[Service]:
    """Run ``web``, ``worker`` and ``clock`` as processes of their own, over PostgreSQL and Valkey."""
    with contextlib.ExitStack() as running:
        service = running.enter_context(web(stack, port=port, meld=meld, timeout=timeout, env=env))
        for number in range(workers):
            running.enter_context(service.running("worker", "--threads", str(threads), name=f"worker-{number}"))
        running.enter_context(service.running("clock"))
        until(lambda: service.rows("lease"), START_SECONDS, "the clock's first pass")
        yield service


@contextlib.contextmanager
def web(stack: Stack, *, port: int, meld: str, timeout: float = 20, env: Env = None) -> Iterator[Service]:
    """Run ``web`` alone, over PostgreSQL and Valkey; the caller may run more beside it."""
    own = {"name": "spread", "database": stack.new_postgres(), "broker": stack.new_broker()}
    service = Service(stack, port=port, meld=meld, timeout=timeout, env=env, **own)
    with contextlib.closing(service.database), service.running("web"):
        yield service


SETUPS: tuple[Setup, ...] = (embedded, spread)
DESCRIPTIONS = {
    "embedded": "`up`: SQLite, memory broker, one process",
    "spread": "`web` + `worker` + `clock`: PostgreSQL, Valkey",
}


def _migrated(url: str) -> str:
    database = Database(url, pool_size=1)
    migrations.upgrade(database.engine)
    database.close()
    return url


def _is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
