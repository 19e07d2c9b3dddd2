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
from tests.meldwatch.cli.command_helpers import key_setting
from tests.support.encryption_keys import KEY
from tests.support.polling import eventually


def test_a_port_in_use_is_reported(served: Deployment) -> None:
    """A second service on another database but the same port reports it in one line."""
    ended = served.run("up", MELDWATCH_DATABASE_URL="sqlite:///another.db")

    assert ended.returncode == 2
    assert "Cannot listen on" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_second_service_on_one_file_is_refused(sqlite_url: str, tmp_path: Path) -> None:
    """On SQLite only one ``up`` may run: a second one is refused; after a crash, ``up`` starts again."""
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
def test_a_path_without_a_database_is_reported(tmp_path: Path, kind: str) -> None:
    """A missing folder or a file that is not a database: one line, no traceback, and no token is created."""
    path = tmp_path / ("missing/new.db" if kind == "folder" else "garbage.db")
    if kind == "garbage":
        path.write_bytes(b"this is no database" * 100)
    with deployed(tmp_path, f"sqlite:///{path}", "memory://") as deployment:
        ended = deployment.run("up", MELDWATCH_ADMIN_TOKENS="")

    assert ended.returncode in {2, 3}
    assert ended.stderr.strip().count("\n") == 0
    assert "Traceback" not in ended.stderr
    assert not list(tmp_path.glob("**/*.admin-token"))


def test_the_demo_prints_events(tmp_path: Path) -> None:
    """``up --demo`` needs no setting, prints events, and ends with exit code 0 after SIGTERM."""
    command = [*COMMAND, "up", "--demo", "--port", "0"]
    environment = {"PATH": Path(sys.executable).parent.as_posix(), "MELDWATCH_LOG_FORMAT": "json"}
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        seen = next(line for line in demo.stdout if "connection.status_changed" in line)
        demo.send_signal(signal.SIGTERM)
        code = demo.wait(10)

    assert "(new) ->" in seen
    assert code == 0


def test_up_encrypts_bodies_with_its_generated_key(url: str, tmp_path: Path) -> None:
    """Commands beside it find that key."""
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


def test_web_without_a_key_warns_of_unencrypted_bodies(postgres_url: str, valkey_url: str, tmp_path: Path) -> None:
    """It logs a warning when it starts; with a key it does not."""
    with deployed(tmp_path, postgres_url, valkey_url) as deployment:
        for keys in ((), (KEY,)):
            deployment.environment.update(key_setting(*keys))
            process = deployment.start("web")
            eventually(lambda: deployment.status("/healthz") == 200, 20, message=deployment.logs())
            stop_process(process, signal.SIGTERM)

    warned = ["webhook bodies are stored in clear" in path.read_text() for path in sorted(tmp_path.glob("*.log"))]
    assert warned == [True, False]
