"""Helpers for tests of commands: read JSON Lines, run a tail, set keys, execute SQL."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import SecretStr
from sqlalchemy import text

from runtime.database import Database
from tests.end_to_end.deployment import COMMAND, Deployment


def parse_json_lines(output: str) -> list[dict[str, Any]]:
    """Return the JSON objects that a command printed, one per line."""
    return [json.loads(line) for line in output.splitlines()]


def read_json_lines(ended: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """Return the JSON objects that a successful command printed, one per line."""
    assert ended.returncode == 0, ended.stderr
    return parse_json_lines(ended.stdout)


@contextmanager
def run_tail(served: Deployment, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``events tail`` beside the service."""
    command = [*COMMAND, "events", "tail", "--json", *options]
    with subprocess.Popen(
        command, env=served.environment, cwd=served.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as tail:
        try:
            yield tail
        finally:
            tail.kill()


def read_events(tail: subprocess.Popen[str], count: int) -> list[dict[str, Any]]:
    """Return the next events that a tail prints."""
    assert tail.stdout is not None
    return [json.loads(tail.stdout.readline()) for _ in range(count)]


def key_setting(*keys: SecretStr) -> dict[str, str]:
    """Return the setting of the encryption keys."""
    return {"MELDWATCH_ENCRYPTION_KEYS": ",".join(key.get_secret_value() for key in keys)}


def show_body(deployment: Deployment, event_id: str, *keys: SecretStr) -> tuple[int, bytes, str]:
    """Run ``webhooks show --body``; return its exit code, its output as bytes, and its error output."""
    ended = deployment.run_for_bytes("webhooks", "show", event_id, "--body", **key_setting(*keys))
    return ended.returncode, ended.stdout, ended.stderr.decode()


def execute_sql(url: str, statement: str) -> None:
    """Execute a statement, to damage or age rows."""
    database = Database(url)
    with database.write() as session:
        session.connection().execute(text(statement))
    database.close()


def select_rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    """Return the rows that a query finds."""
    database = Database(url)
    with database.read() as session:
        found = [tuple(row) for row in session.connection().execute(text(statement))]
    database.close()
    return found
