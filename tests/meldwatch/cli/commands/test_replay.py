"""Replays from the command line, beside a service or without one."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import select

from runtime.database import Database
from schemas.tables import AuditRow, ReadRequestRow, ReplayRow
from tests.end_to_end.deployment import COMMAND, Deployment, deployed, stop_process
from tests.support.encryption_keys import KEY
from tests.support.polling import eventually
from tests.support.scripted_consumer import SECRET, HttpConsumer, emit, subscribe
from tests.support.table_snapshot import assert_unchanged

COUNT = 3


@pytest.fixture
def quiet(url: str, tmp_path: Path) -> Iterator[Deployment]:
    """A service that has seen some connections, and was stopped; no read is pending."""
    with deployed(tmp_path, url, "memory://", MELDWATCH_ENCRYPTION_KEYS=KEY.get_secret_value()) as deployment:
        deployment.environment["MELDWATCH_PUSH_ALLOWED_NETWORKS"] = "127.0.0.0/8"
        up = deployment.start("up")
        deployment.wait_until_ready()
        for _ in range(COUNT):
            deployment.send_webhook(deployment.meld.world.add().id)
        eventually(
            lambda: len(deployment.mirror()) == COUNT and deployment.has_no_pending_webhooks(), 30, message="the mirror"
        )
        stop_process(up, signal.SIGTERM)
        with closing(Database(url)) as database, database.write() as session:
            session.exec(update(ReadRequestRow).values(requested=ReadRequestRow.completed, due_at=None, woken_at=None))
        yield deployment


def lines(output: str) -> list[Any]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def acts(url: str) -> list[tuple[str, str]]:
    with closing(Database(url)) as database, database.read() as session:
        return [(row.act, row.who) for row in session.exec(select(AuditRow).order_by(AuditRow.id)).all()]  # type: ignore[arg-type]


def test_a_dry_run_predicts_the_real_run(quiet: Deployment, url: str) -> None:
    """A dry run writes nothing and exits with 1 if a replay would change anything; the real run changes just that."""
    ids = sorted(connection.id for connection in quiet.meld.world.connections())
    quiet.meld.world.break_connection(ids[1])
    with closing(Database(url)) as database, assert_unchanged(database):
        dry = quiet.run("replay", "webhooks", "--all", "--dry-run", "--json")
        text = quiet.run("replay", "webhooks", "--all", "--dry-run")
    quiet.start("up")
    quiet.wait_until_ready()
    events_before = quiet.events()
    real = quiet.run("replay", "webhooks", "--all", "--json")
    eventually(quiet.mirror_matches_meld, message="the mirror")
    again = quiet.run("replay", "webhooks", "--all", "--dry-run", "--json")

    predicted = lines(dry.stdout)
    assert dry.returncode == text.returncode == 1
    assert [(each["connection_id"], bool(each["changes"])) for each in predicted] == [
        (id_, id_ == ids[1]) for id_ in ids
    ]
    assert f"{ids[0]}  nothing would change" in text.stdout
    assert f"{ids[1]}  status: ACTIVE -> RECONNECT_REQUIRED" in text.stdout
    assert "3 connections, 1 to change, 1 events, 0 not read; nothing was written" in text.stderr
    (replay,) = lines(real.stdout)
    (event,) = quiet.events()[len(events_before) :]
    assert (real.returncode, replay["state"], replay["done"], replay["total"]) == (0, "finished", COUNT, COUNT)
    assert (event["data"]["cause"]["trigger"], event["data"]["cause"]["replay_id"]) == ("replay", replay["id"])
    assert [event["type"]] == [each["type"] for each in predicted[1]["events"]]
    assert again.returncode == 0
    assert [act for act, who in acts(url) if who.startswith("cli:")] == ["replay.started"]


def test_filters_select_webhooks(quiet: Deployment) -> None:
    """A dry run reads only the connections of the selected webhooks."""
    webhooks = lines(quiet.run("webhooks", "list", "--json").stdout)
    first, second, third = webhooks

    def connection_ids(*options: str) -> set[str]:
        output = quiet.run("replay", "webhooks", "--dry-run", "--json", *options).stdout
        return {each["connection_id"] for each in lines(output)}

    assert connection_ids("--event-id", first["event_id"]) == {first["connection_id"]}
    assert connection_ids("--connection", second["connection_id"], "--type", second["type"]) == {
        second["connection_id"]
    }
    since = connection_ids("--since", third["received_at"], "--until", "2100-01-01", "--state", "processed")
    assert since == {each["connection_id"] for each in webhooks if each["received_at"] >= third["received_at"]}


def test_refused_credentials_exit_with_3(quiet: Deployment) -> None:
    """A dry run whose API key Meld refuses names the setting to correct."""
    quiet.environment["MELDWATCH_MELD_API_KEY"] = "wrong"

    ended = quiet.run("replay", "webhooks", "--all", "--dry-run")

    assert ended.returncode == 3
    assert "MELDWATCH_MELD_API_KEY" in ended.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("webhooks",), "without a filter covers everything"),
        (("webhooks", "--rate", "5"), "without a filter covers everything"),
        (("webhooks", "--since", "yesterday"), "--since"),
        (("webhooks", "--all", "--rate", "0"), "--rate"),
        (("webhooks", "--state", "lost"), "--state"),
        (("webhooks", "--resume", "none"), "There is no replay"),
        (("webhooks", "--resume", "none", "--all"), "Give nothing with it"),
        (("webhooks", "--resume", "none", "--dry-run"), "Give nothing with it"),
        (("events", "--all"), "'subscription' is required"),
        (("events", "--subscription", "crm"), "without a filter covers everything"),
        (("events", "--subscription", "crm", "--all"), "There is no subscription"),
        (("events", "--subscription", "crm", "--all", "--dry-run"), "There is no subscription"),
        (("show", "none"), "There is no replay"),
        (("stop", "none"), "There is no replay"),
    ],
)
def test_invalid_arguments_are_refused(sqlite_url: str, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    """Exit code 2 with the argument to correct, and no replay is created."""
    with deployed(tmp_path, sqlite_url, "memory://") as deployment:
        ended = deployment.run("replay", *options)
        listed = deployment.run("replay", "list", "--json")

    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert listed.stdout == ""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_replay_that_can_be_resumed(quiet: Deployment, url: str, signum: signal.Signals) -> None:
    """A signal stops it after the current step; exit code 1, and the printed command resumes it."""
    process = start_command(quiet, "replay", "webhooks", "--all", "--rate", "0.1", "--json")
    eventually(lambda: completed_steps(url) == [1], 60, message="the first step")
    process.send_signal(signum)
    out, err = process.communicate(timeout=30)
    (stopped,) = lines(out)
    quiet.start("up")
    quiet.wait_until_ready()
    command = err[err.index("meldwatch replay") :].split()[1:]
    resumed = quiet.run(*command, "--rate", "100", "--json")
    finished = quiet.run(*command)

    assert process.returncode == 1
    assert (stopped["state"], stopped["done"]) == ("stopped", 1)
    (ended,) = lines(resumed.stdout)
    assert (resumed.returncode, ended["id"], ended["state"], ended["done"]) == (0, stopped["id"], "finished", COUNT)
    assert (finished.returncode, "has ended" in finished.stderr) == (2, True)
    assert [act for act, _who in acts(url)] == ["replay.started", "replay.stopped", "replay.resumed"]
    assert {who for _act, who in acts(url)} == {acts(url)[0][1]}


def test_replay_stop_ends_a_waiting_command(quiet: Deployment, url: str) -> None:
    """``replay stop`` ends the command in another terminal within seconds."""
    process = start_command(quiet, "replay", "webhooks", "--all", "--rate", "0.01")
    eventually(lambda: completed_steps(url) == [1], 60, message="the first step")

    (replay,) = lines(quiet.run("replay", "list", "--json").stdout)
    stopped = quiet.run("replay", "stop", replay["id"])
    out, err = process.communicate(timeout=30)

    assert (stopped.returncode, process.returncode) == (0, 1)
    assert "--resume" in err
    assert "stopped" in out


def test_events_are_replayed(quiet: Deployment, url: str) -> None:
    """A dry run counts and writes nothing; in the real run the service pushes the events with the replay header."""
    with HttpConsumer() as consumer:
        consumer.secrets.append(SECRET)
        with closing(Database(url)) as database:
            subscribe(database, "s1", name="crm", url=consumer.url)
            emit(database, "a", "a", "b")
            with assert_unchanged(database):
                dry = quiet.run("replay", "events", "--subscription", "crm", "--connection", "a", "--dry-run", "--json")
        quiet.start("up")
        quiet.wait_until_ready()
        eventually(lambda: len(consumer.pushes) == 3, 20, message="the pushes")
        real = quiet.run("replay", "events", "--subscription", "crm", "--connection", "a", "--json")
        eventually(lambda: len(consumer.pushes) == 5, 20, message="the pushes that are sent again")
        shown = quiet.run("replay", "show", lines(real.stdout)[0]["id"], "--json")

    assert dry.returncode == real.returncode == 0
    (counted,) = lines(dry.stdout)
    first = counted["first_position"]
    assert (counted["connection_id"], counted["events"], counted["last_position"]) == ("a", 2, first + 1)
    (replay,) = lines(real.stdout)
    again = consumer.pushes[3:]
    assert [json.loads(pushed.body)["position"] for pushed in again] == [first, first + 1]
    assert {pushed.headers.get("meldwatch-replay") for pushed in again} == {replay["id"]}
    assert (replay["done"], replay["total"], replay["subscription_id"]) == (2, 2, "s1")
    assert lines(shown.stdout)[0]["pending"] == 0


def start_command(deployment: Deployment, *arguments: str) -> subprocess.Popen[str]:
    """Start a command whose output is read."""
    return subprocess.Popen(
        [*COMMAND, *arguments],
        env=deployment.environment,
        cwd=deployment.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def completed_steps(url: str) -> list[int]:
    """Return the number of completed steps of each replay."""
    with closing(Database(url)) as database, database.read() as session:
        return list(session.exec(select(ReplayRow.done)).all())
