"""The commands of the operator, beside a running service."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest

from meldwatch.cli.root import COMMANDS, cli
from runtime.database import Database
from tests.end_to_end.deployment import COMMAND, KEY, SECRET, TOKEN, Deployment, deployed
from tests.support import row_factory
from tests.support.polling import eventually

ROOT = Path(__file__).parent.parent.parent.parent


def lines(ended: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_what_is_stored_can_be_looked_at(served: Deployment) -> None:
    """Connections, webhooks and events are listed and shown, as JSON Lines that equal what the API says."""
    (connection,) = lines(served.run("connections", "list", "--status", "ACTIVE", "--json"))
    (shown,) = lines(served.run("connections", "show", connection["id"], "--json"))
    webhooks = lines(served.run("webhooks", "list", "--state", "processed", "--json"))
    (webhook,) = lines(served.run("webhooks", "show", webhooks[0]["event_id"], "--json"))
    events = lines(served.run("events", "list", "--connection", connection["id"], "--json"))
    (event,) = lines(served.run("events", "show", "1", "--json"))

    assert [connection, shown] == [served.mirror()[connection["id"]]] * 2
    assert webhooks == served.webhooks()
    assert webhook == webhooks[0]
    assert events == served.events()
    assert event == events[0]


def test_what_was_given_up_is_listed(served: Deployment) -> None:
    """Connections whose reads failed too often, with why: as JSON Lines that equal what the API says, or a table."""
    database = Database(served.environment["MELDWATCH_DATABASE_URL"])
    row_factory.store(
        database,
        row_factory.read_request(
            "dead", trigger="reconcile", requested=1, failed_at=row_factory.TIME, error="Meld answered"
        ),
    )
    database.close()

    failures = lines(served.run("connections", "failed", "--json"))
    table = served.run("connections", "failed").stdout.splitlines()

    assert failures == served.get("/api/failures")["failures"]
    assert (failures[0]["connection_id"], failures[0]["retry_at"]) == ("dead", None)
    assert (table[0].split()[0], table[1].split()[0]) == ("connection_id", "dead")


def test_tables_are_for_people(served: Deployment) -> None:
    """Without ``--json`` there is a head line and a line for each row, and nothing is folded or cut."""
    (id_,) = served.mirror()

    listed = served.run("connections", "list").stdout.splitlines()

    assert listed[0].split()[:2] == ["id", "status"]
    assert listed[1].split()[:2] == [id_, "ACTIVE"]


def test_a_trigger_is_taken_for_melds(served: Deployment) -> None:
    """``trigger`` signs as Meld does: the webhook is stored and the connection is read again."""
    (id_,) = served.mirror()
    reads = served.reads(id_)

    ended = served.run("trigger", "BANK_LINKING_ACCOUNTS_UPDATED", "--connection", id_, "--event-id", "mine")

    assert (ended.returncode, ended.stdout.strip()) == (0, f"{served.url}/webhooks/meld answered 200")
    eventually(lambda: served.reads(id_) == reads + 1, message="the read")
    assert lines(served.run("webhooks", "show", "mine", "--json"))[0]["connection_id"] == id_


def test_a_refresh_leads_to_a_read(served: Deployment) -> None:
    """``connections refresh`` has the running service read the connection again, within seconds."""
    (id_,) = served.mirror()
    reads = served.reads(id_)

    ended = served.run("connections", "refresh", id_)

    assert ended.returncode == 0
    eventually(lambda: served.reads(id_) == reads + 1, message="the read")


def test_a_reconcile_fills_the_mirror_and_then_finds_nothing(served: Deployment) -> None:
    """``reconcile`` takes what was never seen from Meld's list, exits with 1 for the drift, and with 0 without any."""
    silent = [served.meld.world.add().id for _ in range(25)]

    first = served.run("reconcile", "--json")
    second = served.run("reconcile", "--json")

    drifts = [
        {kind: json.loads(ended.stdout)[kind] for kind in ("unseen", "changed", "missing")} for ended in (first, second)
    ]
    assert (first.returncode, second.returncode) == (1, 0)
    assert drifts == [{"unseen": 25, "changed": 0, "missing": 0}, {"unseen": 0, "changed": 0, "missing": 0}]
    assert set(silent) <= served.mirror().keys()
    assert served.is_true()


def test_a_reconcile_mends_what_no_webhook_told(served: Deployment) -> None:
    """A change and a deletion that Meld never announced reach the mirror and the feed."""
    id_ = served.meld.world.add().id
    filled = served.run("reconcile")
    served.meld.world.break_connection(id_)

    ended = served.run("reconcile")

    assert (filled.returncode, "unseen" in filled.stdout) == (1, True)

    assert (ended.returncode, "changed" in ended.stdout) == (1, True)
    eventually(served.is_true, message="the true mirror")
    assert served.events()[-1]["data"]["cause"]["trigger"] == "reconcile"


@contextmanager
def tailing(served: Deployment, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``events tail`` beside the service."""
    command = [*COMMAND, "events", "tail", "--json", *options]
    with subprocess.Popen(
        command, env=served.environment, cwd=served.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as tail:
        try:
            yield tail
        finally:
            tail.kill()


def printed(tail: subprocess.Popen[str], count: int) -> list[dict[str, Any]]:
    assert tail.stdout is not None
    return [json.loads(tail.stdout.readline()) for _ in range(count)]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_tail_follows_the_feed(served: Deployment, signum: signal.Signals) -> None:
    """``events tail`` prints what there is behind a position and then what comes, and ends with success."""
    (id_,) = served.mirror()
    with tailing(served, "--after", "0") as tail:
        first = printed(tail, len(served.events()))
        served.meld.send_webhooks(served.meld.world.break_connection(id_))
        then = printed(tail, 1)
        tail.send_signal(signum)
        code = tail.wait(10)
        said = tail.stderr.read() if tail.stderr is not None else ""

    assert first + then == served.events()
    assert (code, said) == (0, "")


def test_a_tail_survives_a_killed_service(served: Deployment) -> None:
    """It says so, waits, and goes on where it was: what was committed meanwhile comes, and nothing twice."""
    (id_,) = served.mirror()
    with tailing(served, "--after", "0") as tail:
        seen = printed(tail, len(served.events()))
        for act in (served.meld.world.break_connection, served.meld.world.heal):
            served.processes[-1].kill()
            served.processes[-1].wait()
            assert tail.stderr is not None
            assert "does not answer" in tail.stderr.readline()
            served.meld.send_webhooks(act(id_))
            served.start("up")
            served.wait_until_ready()
            eventually(lambda last=seen[-1]: served.events()[-1] != last, 20)  # type: ignore[misc]
            assert "is back" in tail.stderr.readline()
            seen += printed(tail, len(served.events()) - len(seen))
        tail.send_signal(signal.SIGINT)
        code = tail.wait(10)

    assert [event["position"] for event in seen] == list(range(1, len(seen) + 1))
    assert code == 0


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        ({"MELDWATCH_ADMIN_TOKENS": "another"}, 2, "MELDWATCH_READ_TOKENS"),
        ({"MELDWATCH_ADMIN_TOKENS": ""}, 2, "MELDWATCH_READ_TOKENS"),
        ({"MELDWATCH_PORT": "1"}, 3, "http://127.0.0.1:1 does not answer"),
    ],
    ids=["wrong", "none", "away"],
)
def test_a_tail_that_cannot_begin_says_why(served: Deployment, settings: dict[str, str], code: int, said: str) -> None:
    """In one line, with the contract's exit code and without the token."""
    ended = served.run("events", "tail", **settings)

    assert (ended.returncode, said in ended.stderr) == (code, True), ended.stderr
    assert ended.stderr.strip().count("\n") == 0
    assert "another" not in ended.stderr


def test_a_tail_uses_the_token_that_up_made(sqlite_url: str, tmp_path: Path) -> None:
    """On the machine of ``up`` it needs no setting of its own."""
    with deployed(tmp_path, sqlite_url, "memory://", MELDWATCH_ADMIN_TOKENS="") as deployment:
        deployment.start("up")
        deployment.wait_until_ready()
        deployment.meld.send_webhooks(deployment.meld.world.complete(deployment.meld.world.start().id))
        with tailing(deployment, "--after", "0") as tail:
            (event,) = printed(tail, 1)

    assert event["position"] == 1


def test_the_doctor_finds_everything_well(served: Deployment) -> None:
    """``doctor`` asks database, broker and Meld, and ends with success."""
    ended = served.run("doctor")

    assert ended.returncode == 0, ended.stdout
    assert [line.split()[0] for line in ended.stdout.splitlines()] == ["ok"] * 6
    assert not any(secret in ended.stdout + ended.stderr for secret in (KEY, SECRET, TOKEN))


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        ({"MELDWATCH_MELD_API_KEY": "another"}, 1, "the key does not fit"),
        ({"MELDWATCH_MELD_API_URL": "http://127.0.0.1:1"}, 3, "http://127.0.0.1:1"),
        ({"MELDWATCH_BROKER_URL": "redis://127.0.0.1:1"}, 3, "The broker does not answer"),
        ({"MELDWATCH_BROKER_URL": "amqp://127.0.0.1:1"}, 3, "The broker does not answer"),
        ({"MELDWATCH_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}, 3, "The database does not answer"),
        ({"MELDWATCH_WEBHOOK_URLS": "https://example.com/hook"}, 1, "does not end with /webhooks/meld"),
        ({"MELDWATCH_WEBHOOK_URLS": "http://example.com/webhooks/meld"}, 1, "is not https"),
        ({"MELDWATCH_WEBHOOK_SECRETS": ""}, 2, "MELDWATCH_WEBHOOK_SECRETS"),
        ({}, 1, "FAIL  encryption   set ENCRYPTION_KEYS: without a key webhook bodies are stored in clear"),
    ],
    ids=["key", "meld", "redis", "rabbitmq", "database", "path", "scheme", "secret", "encryption"],
)
def test_the_doctor_names_what_is_wrong(
    sqlite_url: str, tmp_path: Path, settings: dict[str, str], code: int, said: str
) -> None:
    """Each thing that may be wrong is found, with what to do about it, and no traceback."""
    with deployed(tmp_path, sqlite_url, "memory://") as deployment:
        ended = deployment.run("doctor", **settings)

    assert (ended.returncode, said in ended.stdout) == (code, True), ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("connections", "show", "nobody"), 2, "nobody"),
        (("webhooks", "list", "--since", "yesterday"), 2, "--since"),
        (("events", "list", "--type", "no.such"), 2, "--type"),
        (("events", "show", "999"), 2, "999"),
        (("trigger", "TEST", "--connection", "c", "--to", "http://127.0.0.1:1/"), 3, "Is the service running?"),
        (("no-such-command",), 2, "No such command"),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, tuple) else None,
)
def test_a_users_mistake_is_a_clear_line(
    sqlite_url: str, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    """Bad input ends with the contract's code and a line that says what was wrong, never with a traceback."""
    with deployed(tmp_path, sqlite_url, "memory://") as deployment:
        ended = deployment.run(*arguments)

    assert (ended.returncode, said in ended.stderr) == (code, True), ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_database_without_tables_is_named(tmp_path: Path) -> None:
    """A command that finds no tables, or no file, says which command makes them."""
    with deployed(tmp_path, f"sqlite:///{tmp_path / 'new.db'}", "memory://") as deployment:
        missing = deployment.run("connections", "list")
        migrated = deployment.run("migrate")
        listed = deployment.run("connections", "list", "--json")

    assert (missing.returncode, "meldwatch up" in missing.stderr) == (2, True)
    assert migrated.returncode == 0
    assert (listed.returncode, listed.stdout) == (0, "")


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


def test_subscriptions_are_kept_from_the_command_line(served: Deployment) -> None:
    """Added with the key that ``up`` keeps, listed, shown, rotated, paused, resumed, removed, beside the service."""
    url = "https://1.1.1.1/events"
    kind = "connection.status_changed"
    (added,) = lines(served.run("subscriptions", "add", "crm", url, "--type", kind, "--json"))
    (listed,) = lines(served.run("subscriptions", "list", "--json"))
    (shown,) = lines(served.run("subscriptions", "show", added["id"], "--json"))
    (rotated,) = lines(served.run("subscriptions", "rotate", "crm", "--json"))
    said = [
        served.run("subscriptions", verb, "crm").stdout.strip() for verb in ("pause", "resume", "redrive", "remove")
    ]

    secret = added.pop("secret")
    assert (added["types"], added["state"]) == ([kind], "active")
    assert [listed, shown] == [added] * 2
    assert rotated["secret"] != secret
    assert said == ["crm is paused", "crm is active", "0 dead deliveries are tried again", "crm is removed"]
    assert served.run("subscriptions", "pause", "crm").returncode == 2
    (key,) = served.folder.rglob("*.encryption-key")
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_text().strip() not in served.logs()


def test_what_may_not_be_pushed_to_is_refused(served: Deployment) -> None:
    """With a word on what to do, and exit code 2."""
    refused = served.run("subscriptions", "add", "inside", "https://127.0.0.1/")
    odd = served.run("subscriptions", "add", "a\nb", "https://1.1.1.1/")

    assert (refused.returncode, "MELDWATCH_PUSH_ALLOWED_NETWORKS" in refused.stderr) == (2, True)
    assert (odd.returncode, "NAME" in odd.stderr) == (2, True)


# What the root command imports

SHOW_IMPORTS = """
import sys
before = set(sys.modules)
from meldwatch.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(*{name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names, file=sys.stderr)
"""
HELP_IMPORTS = {"click", "meldwatch", "runtime"}
LIST_IMPORTS = {
    *HELP_IMPORTS,
    *("migrations", "schemas", "service"),
    *("annotated_types", "anyio", "dotenv", "pydantic", "pydantic_core", "sqlalchemy", "sqlmodel", "starlette"),
    *("structlog", "typing_extensions", "typing_inspection"),
}
# What structlog and SQLAlchemy import only if it happens to be installed, and what compiled modules add.
OPTIONAL_IMPORTS = {"attr", "attrs", "better_exceptions", "colorama", "greenlet", "pygments", "rich"}


def environment_of(folder: Path) -> dict[str, str]:
    return {"MELDWATCH_DATABASE_URL": f"sqlite:///{folder / 'new.db'}", "PYTHONPATH": str(ROOT)}


def imported_by(folder: Path, *arguments: str) -> set[str]:
    """Return the top-level packages that a command imports, without those of the standard library."""
    command = [sys.executable, "-c", SHOW_IMPORTS, *arguments]
    ended = subprocess.run(command, env=environment_of(folder), cwd=folder, capture_output=True, text=True, check=True)
    names = ended.stderr.splitlines()[-1].split() if ended.stderr.strip() else []
    return {name for name in names if not name.startswith(("_", "cython"))} - OPTIONAL_IMPORTS


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_no_command(tmp_path: Path, option: str) -> None:
    """They answer at once, since they load only Click and the table of the commands."""
    assert imported_by(tmp_path, option) <= HELP_IMPORTS


def test_a_list_imports_only_what_it_needs(tmp_path: Path) -> None:
    """``connections list --json`` loads neither Alembic nor the broker, the server, the HTTP client or cryptography."""
    subprocess.run([*COMMAND, "migrate"], env=environment_of(tmp_path), cwd=tmp_path, check=True)

    assert imported_by(tmp_path, "connections", "list", "--json") <= LIST_IMPORTS


def test_a_reader_that_ends_early_is_no_error(tmp_path: Path) -> None:
    """With ``meldwatch events list | head`` nothing is printed to the terminal but what head shows."""
    with subprocess.Popen(
        [*COMMAND, "--help"], env=environment_of(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        assert command.stdout is not None
        command.stdout.close()
        assert command.stderr is not None
        printed_to_terminal = command.stderr.read()

    assert printed_to_terminal == b""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_root_help_has_the_first_sentence_of_each_command(name: str) -> None:
    """The static table agrees with the commands, each of which is an attribute of its module."""
    command = cli.get_command(click.Context(cli), name)

    assert command is not None
    assert (command.name, (command.help or "").partition("\n\n")[0].replace("\n", " ")) == (name, COMMANDS[name].help)


def test_every_module_of_commands_is_in_the_table() -> None:
    """No command is forgotten."""
    modules = {path.stem for path in (ROOT / "meldwatch/cli/commands").glob("*.py")} - {"__init__"}

    assert {entry.module for entry in COMMANDS.values()} == modules
