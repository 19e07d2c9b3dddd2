"""Processes of a benchmark run: PostgreSQL, Valkey, the simulated Meld and child processes, stopped at its end."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import psutil
import psycopg

from bench.harness import postgres
from bench.harness.signed_webhooks import SECRET, webhook_url
from bench.harness.simulated_meld import MeldControl
from migrations import run as migrations
from runtime.database import Database
from tests.support.polling import poll
from tests.support.processes.servers import Run, free_ports, start_valkey

ROOT = Path(__file__).resolve().parents[2]
"""The root of the repository."""

ADMIN_TOKEN = "bench-token"
MELDWATCH_COMMAND = ("-c", "from meldwatch.main import main; main()")
START_TIMEOUT_SECONDS = 30
STOP_TIMEOUT_SECONDS = 12


class BenchError(Exception):
    """A process did not start, or a condition did not become true in time; there is no result."""


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until a condition is true.

    Raises:
        BenchError: It did not become true in time.
    """
    if not poll(condition, seconds):
        raise BenchError(f"timeout after {seconds:g} s: {what}")


class BenchProcess:
    """A child process: one of meldwatch's, or one of the benchmark's."""

    def __init__(self, name: str, command: tuple[str, ...], *, folder: Path, env: dict[str, str]) -> None:
        self.name = name
        self.output = folder / f"{name}.log"
        # Outside the repository, which may contain an operator's .env.
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **env}
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, *command], cwd=folder, env=environment, stdout=output, stderr=output
            )
        self.pid = self._process.pid

    def wait_for_port(self, port: int) -> None:
        """Wait until the process listens on a port."""
        wait_until(
            lambda: self._process.poll() is not None or _is_listening(port),
            START_TIMEOUT_SECONDS,
            f"start of {self.name}",
        )
        if self._process.poll() is not None:
            raise BenchError(f"{self.name} exited:\n{self.output.read_text()[-4000:]}")

    def suspend(self) -> None:
        """Suspend the process (SIGSTOP), as if its machine hung, until ``resume``."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the process (SIGCONT)."""
        self._process.send_signal(signal.SIGCONT)

    def is_running(self) -> bool:
        """Return whether the process has not exited."""
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.poll()

    def cpu_seconds(self) -> float:
        """Return the CPU time used so far, in seconds."""
        times = psutil.Process(self.pid).cpu_times()
        return times.user + times.system

    def stop(self) -> None:
        """Terminate the process; kill it after a timeout."""
        self.resume()
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Stack:
    """The servers that the figures of one run share; PostgreSQL and Valkey are started on first use.

    Args:
        run: The directory and lock of the run.
        is_quick: Whether to do only enough to show that everything works; results of a quick run are meaningless.
    """

    def __init__(self, run: Run, *, is_quick: bool) -> None:
        self.is_quick = is_quick
        self._run = run
        self._numbers = itertools.count(1)

    @cached_property
    def postgres_url(self) -> str:
        """The URL of the server's default database."""
        return postgres.start(self._run).url

    @cached_property
    def _valkey_url(self) -> str:
        return start_valkey(self._run).url

    def folder(self) -> Path:
        """Create a folder that is deleted with the run."""
        folder = self._run.directory / f"bench-{next(self._numbers)}"
        folder.mkdir()
        return folder

    def new_postgres(self) -> str:
        """Create a migrated PostgreSQL database and return its URL."""
        name = f"bench_{next(self._numbers)}"
        with psycopg.connect(self.postgres_url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return _migrated(self.postgres_url.removesuffix("postgres") + name)

    def new_sqlite(self) -> str:
        """Create a migrated SQLite database and return its URL."""
        return _migrated(f"sqlite:///{self.folder()}/meldwatch.db")

    def new_broker(self) -> str:
        """Return the URL of an empty Valkey database."""
        return self._valkey_url.removesuffix("0") + str(next(self._numbers))

    @contextlib.contextmanager
    def child(
        self, name: str, *command: str, port: int | None = None, env: dict[str, str] | None = None
    ) -> Iterator[BenchProcess]:
        """Run a child process until the block ends; if a port is given, wait until it listens first."""
        child = BenchProcess(name, command, folder=self.folder(), env=env or {})
        try:
            if port is not None:
                child.wait_for_port(port)
            yield child
        finally:
            child.stop()

    @contextlib.contextmanager
    def simulated_meld(self, webhook_port: int, latency_ms: float, *, connections: int = 0) -> Iterator[MeldControl]:
        """Run the simulated Meld, which signs its webhooks for the service on this port."""
        (port,) = free_ports(1)
        env = {"MELDWATCH_WEBHOOK_URLS": webhook_url(webhook_port), "MELDWATCH_WEBHOOK_SECRETS": SECRET}
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
        with self.child("simulate", *MELDWATCH_COMMAND, "simulate", *options, port=port, env=env):
            yield MeldControl(port)

    @contextlib.contextmanager
    def quick_meld(self, latency: float) -> Iterator[MeldControl]:
        """Run the quick Meld, which needs almost no CPU time."""
        (port,) = free_ports(1)
        with self.child("quick-meld", "-m", "bench.harness.quick_meld", str(port), str(latency), port=port):
            yield MeldControl(port)


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
