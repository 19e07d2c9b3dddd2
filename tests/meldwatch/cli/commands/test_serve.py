"""The commands that serve: ``up``, its demo, and ``web``."""

import json
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlmodel import select

from runtime.database import Database
from schemas.tables import WebhookRow
from tests.end_to_end.deployment import COMMAND, Deployment, deployed, stop_process
from tests.meldwatch.cli.command_helpers import listed
from tests.support.encryption_keys import KEY
from tests.support.polling import eventually


def test_a_port_that_is_taken_is_named(served: Deployment) -> None:
    """A second service, on a file of its own but on the same port, says so in one line."""
    ended = served.run("up", MELDWATCH_DATABASE_URL="sqlite:///another.db")

    assert ended.returncode == 2
    assert "Cannot listen on" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_second_service_on_one_file_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    """On SQLite ``up`` serves alone: another says so, and a killed one leaves nothing in the way."""
    with deployed(tmp_path, sqlite_url, "memory://") as deployment:
        first = deployment.start("up")
        deployment.wait_until_ready()
        second = deployment.run("up", "--port", "0")
        first.kill()
        first.wait()
        deployment.start("up")
        deployment.wait_until_ready()

    assert (second.returncode, "another `meldwatch up`" in second.stderr) == (2, True)


@pytest.mark.parametrize("kind", ["folder", "garbage"])
def test_a_path_that_is_no_database_is_named(tmp_path: Path, kind: str) -> None:
    """A folder that is not there, or a file that is no database: one line, no traceback, no token made."""
    path = tmp_path / ("missing/new.db" if kind == "folder" else "garbage.db")
    if kind == "garbage":
        path.write_bytes(b"this is no database" * 100)
    with deployed(tmp_path, f"sqlite:///{path}", "memory://") as deployment:
        ended = deployment.run("up", MELDWATCH_ADMIN_TOKENS="")

    assert ended.returncode in {2, 3}
    assert ended.stderr.strip().count("\n") == 0
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.glob("**/*.admin-token"))


def test_the_demo_shows_events_within_seconds(tmp_path: Path) -> None:
    """``up --demo`` needs no setting, prints events, and ends with success when it is told to."""
    command = [*COMMAND, "up", "--demo", "--port", "0"]
    environment = {"PATH": Path(sys.executable).parent.as_posix(), "MELDWATCH_LOG_FORMAT": "json"}
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        seen = next(line for line in demo.stdout if "connection.status_changed" in line)
        demo.send_signal(signal.SIGTERM)
        code = demo.wait(10)

    assert "(new) ->" in seen
    assert code == 0


def test_up_seals_what_comes_with_the_key_that_it_keeps(url: str, tmp_path: Path) -> None:
    """And the commands beside it find that key."""
    with deployed(tmp_path, url, "memory://") as deployment:
        deployment.start("up")
        deployment.wait_until_ready()
        deployment.run("trigger", "BANK_LINKING_ACCOUNTS_UPDATED", "--connection", "c1", "--event-id", "e1")
        shown = deployment.run("webhooks", "show", "e1", "--body")
        rotated = deployment.run("keys", "rotate")
    with closing(Database(url)) as database, database.read() as session:
        (row,) = session.exec(select(WebhookRow)).all()

    assert json.loads(shown.stdout)["payload"]["connectionId"] == "c1"
    assert (rotated.returncode, rotated.stdout.split()[-2:]) == (0, ["newest", "1"])
    assert row.encrypted_with is not None
    assert b"connectionId" not in row.body


def test_a_web_without_a_key_says_that_bodies_are_in_clear(postgres_url: str, valkey_url: str, tmp_path: Path) -> None:
    """It warns when it starts; with a key it does not."""
    with deployed(tmp_path, postgres_url, valkey_url) as many:
        for keys in ((), (KEY,)):
            many.environment.update(listed(*keys))
            process = many.start("web")
            eventually(lambda: many.status("/healthz") == 200, 20, message=many.logs())
            stop_process(process, signal.SIGTERM)

    warned = ["webhook bodies are stored in clear" in path.read_text() for path in sorted(tmp_path.glob("*.log"))]
    assert warned == [True, False]
