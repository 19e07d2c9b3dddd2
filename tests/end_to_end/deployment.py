"""Run the real program as an operator does: command-line processes on real databases and brokers."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from simulator.server import Simulator
from tests.support.http import CLIENT
from tests.support.polling import eventually
from tests.support.processes import preloaded_program
from tests.support.processes.preloaded_program import PreloadedProcess

SECRET = "profile-secret"
TOKEN = "admin-token"
KEY = "meld-key"
COMMAND = [sys.executable, "-m", "meldwatch.main"]


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@dataclass
class Deployment:
    """The processes of one set-up, and their simulated Meld.

    ``web`` listens on ``port``; each test decides which other processes run.
    """

    folder: Path
    port: int
    environment: dict[str, str]
    meld: Simulator
    is_embedded: bool
    processes: list[PreloadedProcess] = field(default_factory=list)

    @property
    def url(self) -> str:
        """The base URL of the API."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, *arguments: str) -> PreloadedProcess:
        """Start a command in the background; write its output to a file."""
        number = len(self.processes)
        with (self.folder / f"{number}-{arguments[0]}.log").open("wb") as output:
            process = preloaded_program.start(
                arguments, env=self.environment, cwd=self.folder, stdout=output, stderr=output
            )
        self.processes.append(process)
        return process

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command until it exits; return its output as text."""
        ended = self.run_for_bytes(*arguments, **environment)
        return subprocess.CompletedProcess(ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode())

    def run_for_bytes(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command until it exits; return its output as bytes."""
        env = {**self.environment, **environment}
        return preloaded_program.run(arguments, env=env, cwd=self.folder, timeout=60)

    def start_all(self) -> list[PreloadedProcess]:
        """Start the processes of the set-up, and wait until the service is ready."""
        names = [("up",)] if self.is_embedded else [("web",), ("worker",), ("clock",)]
        started = [self.start(*name) for name in names]
        self.wait_until_ready()
        return started

    def wait_until_ready(self) -> None:
        """Wait until ``/readyz`` answers 200."""
        eventually(lambda: self.status("/readyz") == 200, 30, message=f"readiness; {self.logs()}")

    def status(self, path: str) -> int | None:
        """Return the status of a GET; None if there is no answer."""
        try:
            return CLIENT.get(self.url + path, timeout=5).status_code
        except httpx2.HTTPError:
            return None

    def get(self, path: str, **query: Any) -> Any:
        """Return the JSON of a GET with the admin token."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = CLIENT.get(self.url + path, params=query, headers=headers, timeout=35)
        answer.raise_for_status()
        return answer.json()

    def mirror(self) -> dict[str, dict[str, Any]]:
        """Return the rows of the mirror, by connection id."""
        return {row["id"]: row for row in self.get("/api/connections", limit=1000)["connections"]}

    def events(self) -> list[dict[str, Any]]:
        """Return the whole feed."""
        events: list[dict[str, Any]] = []
        while page := self.get("/api/events", limit=1000, after=events[-1]["position"] if events else 0)["events"]:
            events += page
        return events

    def webhooks(self, **query: Any) -> list[dict[str, Any]]:
        """Return all stored webhooks."""
        webhooks: list[dict[str, Any]] = []
        after: dict[str, str] = {}
        while True:
            page = self.get("/api/webhooks", limit=1000, **after, **query)
            webhooks += page["webhooks"]
            if page["next"] is None:
                return webhooks
            after = {"after": page["next"]}

    def mirror_matches_meld(self) -> bool:
        """Return whether the mirror is not empty and each of its rows equals Meld's state."""
        mirror = self.mirror()
        return bool(mirror) and all(matches_meld(row, self.meld.world.truth(id_)) for id_, row in mirror.items())

    def has_no_pending_webhooks(self) -> bool:
        """Return whether no stored webhook is pending."""
        return self.get("/api/webhooks", state="pending", limit=1)["webhooks"] == []

    def send_webhook(self, connection_id: str) -> None:
        """Let Meld send a webhook for a connection that did not change."""
        self.meld.send_webhooks([self.meld.world.compose_event("BANK_LINKING_ACCOUNTS_UPDATED", connection_id)])

    def script_reads(self, connection_id: str, *steps: dict[str, Any]) -> None:
        """Script Meld's answers to the next reads of a connection."""
        script = {"connectionId": connection_id, "steps": steps}
        CLIENT.post(self.meld.url + "/sim/reads", json=script).raise_for_status()

    def count_reads(self, connection_id: str) -> int:
        """Return the number of reads of a connection at Meld."""
        return self.meld.reads.count(connection_id)

    def logs(self) -> str:
        """Return the last output of all processes."""
        return "\n".join(f"{path.name}: {path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))

    def stop(self) -> None:
        """Kill all processes that still run."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(10)


def matches_meld(row: Mapping[str, Any], truth: Mapping[str, Any]) -> bool:
    """Return whether a row of the mirror equals Meld's state of the connection."""
    return (
        row["status"] == truth["status"]
        and row["status_reason"] == truth["statusReason"]
        and row["primary_duplicate_id"] == truth["activeDuplicateConnectionId"]
        and row["duplicate_ids"] == (truth["duplicateConnectionIds"] or [])
    )


@contextmanager
def deployed(folder: Path, database_url: str, broker_url: str, **settings: str) -> Iterator[Deployment]:
    """Provide a set-up with a migrated database and a running simulated Meld, but no Meldwatch process."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/webhooks/meld"
    # Meld sends its first retry after one minute; here after half a second.
    with Simulator(webhook_url=url, webhook_secret=SECRET, api_key=KEY, time_scale=1 / 120) as meld:
        environment = {
            "PATH": os.environ["PATH"],
            "MELDWATCH_DATABASE_URL": database_url,
            "MELDWATCH_BROKER_URL": broker_url,
            "MELDWATCH_MELD_API_URL": meld.url,
            "MELDWATCH_MELD_API_KEY": KEY,
            "MELDWATCH_MELD_TIMEOUT_SECONDS": "2",
            "MELDWATCH_WEBHOOK_URLS": url,
            "MELDWATCH_WEBHOOK_SECRETS": SECRET,
            "MELDWATCH_ADMIN_TOKENS": TOKEN,
            "MELDWATCH_PORT": str(port),
            "MELDWATCH_LOG_FORMAT": "console",
            **settings,
        }
        deployment = Deployment(folder, port, environment, meld, broker_url == "memory://")
        try:
            yield deployment
        finally:
            deployment.stop()


def stop_process(process: PreloadedProcess, signum: signal.Signals) -> int:
    """Send a signal, and return the exit code; fail if the process does not exit within the guaranteed 10 s."""
    process.send_signal(signum)
    return process.wait(10)
