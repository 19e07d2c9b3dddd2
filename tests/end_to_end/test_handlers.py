"""Handlers in the real program: in order, again after a failure, cut when they hang, whatever is killed."""

import json
import shutil
import signal
import sqlite3
import threading
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.deployment import Deployment, stop_process
from tests.end_to_end.test_crashes import storm
from tests.support.polling import eventually

EXAMPLE = Path(__file__).parents[2] / "examples" / "handlers.py"
PUSH_LEASE_SECONDS = 30.0

# Appends each event that it is called with to a file, a line for each; what it does then is told by files.
KEEPS = """
import os, pathlib, time
from meldwatch.handlers import on

@on(seconds=3)
def keep(event):
    line = f"{event.subject} {event.sequence} {os.getpid()}\\n".encode()
    with open("calls", "ab", buffering=0) as calls:
        calls.write(line)
    wish = pathlib.Path(f"wish-{event.subject}-{event.sequence}")
    if wish.exists():
        kind = wish.read_text()
        wish.unlink()
        if kind == "raise":
            raise RuntimeError("as it was told")
        if kind == "hang":
            time.sleep(60)
        if kind == "die":
            os._exit(3)
    while pathlib.Path("shut").exists():
        time.sleep(0.01)
    with open("taken", "ab", buffering=0) as taken:
        taken.write(line)
"""


def with_handler(deployment: Deployment, text: str = KEEPS) -> Path:
    """Give the processes a module with handlers; return the folder that these write to."""
    (deployment.folder / "mine.py").write_text(text)
    deployment.environment["MELDWATCH_HANDLERS"] = "mine"
    return deployment.folder


def read(folder: Path, name: str) -> list[tuple[str, str]]:
    """Return the connections and sequences that the handler has written down, in order."""
    path = folder / name
    return [tuple(line.split()[:2]) for line in path.read_text().splitlines()] if path.exists() else []  # type: ignore[misc]


def first_times(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the sequences of each connection, in the order in which they came, each at its first coming."""
    order: dict[str, list[str]] = defaultdict(list)
    for subject, sequence in dict.fromkeys(pairs):
        order[subject].append(sequence)
    return order


def is_complete(deployment: Deployment) -> bool:
    """Return whether the handler has taken all events of the feed."""
    events = {(event["subject"], event["sequence"]) for event in deployment.events()}
    return set(read(deployment.folder, "taken")) == events


def subscription(deployment: Deployment, name: str = "mine.keep") -> dict[str, Any]:
    shown: dict[str, Any] = deployment.get(f"/api/subscriptions/{name}")
    return shown


def rows(path: Path, table: str) -> list[tuple[Any, ...]]:
    """Return the rows of a table that a handler makes when it is first called."""
    with closing(sqlite3.connect(path)) as database:
        is_there = database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        return database.execute(f"SELECT * FROM {table}").fetchall() if is_there else []


def states(deployment: Deployment) -> list[str]:
    return [row["state"] for row in deployment.get("/api/deliveries")["deliveries"]]


def test_the_example_works(deployment: Deployment) -> None:
    """On every set-up, as it is documented: a customer who must log in again is reminded of it, once."""
    shutil.copy(EXAMPLE, deployment.folder)
    deployment.environment["MELDWATCH_HANDLERS"] = "handlers"
    deployment.start_all()
    meld = deployment.meld
    eventually(lambda: len(deployment.get("/api/subscriptions")["subscriptions"]) == 2, message="their subscriptions")
    connection = meld.world.start()
    for act in (meld.world.complete, meld.world.break_connection):
        meld.send_webhooks(act(connection.id))
        eventually(lambda: connection.id in deployment.mirror() and deployment.mirror_matches_meld(), message="the true mirror")

    reminders = eventually(
        lambda: rows(deployment.folder / "reminders.db", "reminder"),
        message=f"a reminder; {deployment.logs()}",
    )
    last = deployment.events()[-1]
    shown = last["data"]["connection"]
    reason = last["data"]["current"]["status_reason"]
    assert reminders == [(last["id"], shown["external_customer_id"], shown["institution_name"], reason)]
    eventually(lambda: states(deployment) == ["delivered"] * 2, message="both delivered")


def test_what_fails_is_tried_again_in_order(embedded: Deployment) -> None:
    """One that raises, one that hangs and one that kills its process: each event again, and what is behind it after."""
    folder = with_handler(embedded)
    embedded.start_all()
    connections = [embedded.meld.world.add().id for _ in range(4)]
    for connection, wish in zip(connections, ("raise", "hang", "die"), strict=False):
        (folder / f"wish-{connection}-00000001").write_text(wish)
    for connection in connections:
        embedded.send_webhook(connection)
    eventually(lambda: len(embedded.events()) == 4, message="the first events")
    for connection in connections:
        embedded.meld.send_webhooks(embedded.meld.world.break_connection(connection))

    eventually(lambda: is_complete(embedded) and len(embedded.events()) == 8, 40, message=f"all; {embedded.logs()}")
    calls = defaultdict(list)
    for subject, sequence in read(folder, "calls"):
        calls[subject].append(int(sequence))
    failed = {
        row["outcomes"][0]["error"]: row["connection_id"]
        for row in embedded.get("/api/deliveries")["deliveries"]
        if row["outcomes"][0]["error"]
    }
    assert [calls[connection] for connection in connections] == [[1, 1, 2]] * 3 + [[1, 2]]
    assert failed == {
        "the handler raised RuntimeError": connections[0],
        "the handler took longer than 3 s, and was stopped": connections[1],
        "the handler's process ended (exit code 3)": connections[2],
    }
    eventually(lambda: subscription(embedded)["error"] is None, message="a subscription without an error")


def test_events_are_handled_in_order_whatever_is_killed(embedded: Deployment) -> None:
    """SIGKILL of the whole service in a storm: every event is taken, in the order of its connection."""
    folder = with_handler(embedded)
    embedded.start_all()
    life = threading.Thread(target=storm, args=(embedded.meld, 4, 15))
    life.start()
    for seen in (2, 6):
        eventually(lambda seen=seen: len(read(folder, "calls")) >= seen, 40, message="calls")  # type: ignore[misc]
        embedded.processes[-1].kill()
        embedded.processes[-1].wait()
        embedded.start("up")
        embedded.wait_until_ready()
    life.join()

    eventually(lambda: embedded.has_no_pending_webhooks() and is_complete(embedded), 60, message=f"all; {embedded.logs()}")
    assert embedded.events()
    assert all(order == sorted(order) for order in first_times(read(folder, "taken")).values())


def test_a_killed_workers_handler_ends_and_its_event_comes_again(many: Deployment) -> None:
    """SIGKILL of a worker in the midst of a handler: that ends at once, and when the lease ends another is called."""
    folder = with_handler(many)
    _web, worker, _clock = many.start_all()
    eventually(lambda: many.get("/api/subscriptions")["subscriptions"], message="the subscription")
    (folder / "shut").touch()
    connection = many.meld.world.add().id
    many.send_webhook(connection)
    eventually(lambda: read(folder, "calls"), 30, message=f"a call; {many.logs()}")
    pid = (folder / "calls").read_text().split()[2]
    worker.kill()
    worker.wait()
    eventually(lambda: not Path(f"/proc/{pid}").exists(), message="the end of the handler's process")
    (folder / "shut").unlink()
    many.start("worker")
    many.meld.send_webhooks(many.meld.world.break_connection(connection))

    eventually(lambda: is_complete(many) and len(many.events()) == 2, PUSH_LEASE_SECONDS + 30, message=many.logs())
    assert [int(sequence) for _subject, sequence in read(folder, "calls")] == [1, 1, 2]


def test_a_worker_that_stops_ends_what_runs_and_gives_it_back(many: Deployment) -> None:
    """SIGTERM in the midst of a handler that takes too long: exit code 0 in time, and the next worker calls at once."""
    folder = with_handler(many, KEEPS.replace("seconds=3", "seconds=20"))
    _web, worker, _clock = many.start_all()
    eventually(lambda: many.get("/api/subscriptions")["subscriptions"], message="the subscription")
    (folder / "shut").touch()
    many.send_webhook(many.meld.world.add().id)
    eventually(lambda: read(folder, "calls"), 30, message=f"a call; {many.logs()}")
    pid = (folder / "calls").read_text().split()[2]

    code = stop_process(worker, signal.SIGTERM)
    is_gone = not Path(f"/proc/{pid}").exists()
    (folder / "shut").unlink()
    many.start("worker")

    eventually(lambda: is_complete(many), PUSH_LEASE_SECONDS - 10, message=f"the next call; {many.logs()}")
    (delivery,) = many.get("/api/deliveries")["deliveries"]
    assert (code, is_gone) == (0, True)
    assert (len(read(folder, "calls")), delivery["attempts"], len(delivery["outcomes"])) == (2, 1, 1)


def test_workers_that_start_at_once_make_one_subscription(many: Deployment) -> None:
    """Over PostgreSQL and Valkey; each event is handled once, whoever of them takes it."""
    folder = with_handler(many)
    for name in ("web", "clock", "worker", "worker", "worker"):
        many.start(name)
    many.wait_until_ready()
    eventually(lambda: many.logs().count("mine.keep") >= 3, 30, message="three workers that have the handler")
    many.send_webhook(many.meld.world.add().id)
    storm(many.meld, 2, 10)

    eventually(lambda: many.has_no_pending_webhooks() and many.events() and is_complete(many), 30, message=many.logs())
    assert [row["name"] for row in many.get("/api/subscriptions")["subscriptions"]] == ["mine.keep"]
    assert len(read(folder, "taken")) == len(many.events())


def test_an_operator_pauses_and_resumes_a_handler(embedded: Deployment) -> None:
    """From the command line, as with any subscription: meanwhile nothing is called, afterwards all that was missed."""
    folder = with_handler(embedded)
    embedded.start_all()
    paused = embedded.run("subscriptions", "pause", "mine.keep")
    doctor = embedded.run("doctor")
    connection = embedded.meld.world.add().id
    embedded.send_webhook(connection)
    eventually(lambda: embedded.events() and embedded.has_no_pending_webhooks(), message="the event")
    embedded.meld.send_webhooks(embedded.meld.world.break_connection(connection))
    eventually(lambda: len(embedded.events()) == 2, message="another event")
    during = read(folder, "calls")
    resumed = embedded.run("subscriptions", "resume", "mine.keep")
    rotated = embedded.run("subscriptions", "rotate", "mine.keep")

    eventually(lambda: is_complete(embedded), message=f"what was missed; {embedded.logs()}")
    assert (paused.returncode, resumed.returncode, during) == (0, 0, [])
    assert (rotated.returncode, "no secret" in rotated.stderr) == (2, True)
    assert "ok    encryption" in doctor.stdout


def test_a_handler_that_is_gone_is_owed_what_it_missed(embedded: Deployment) -> None:
    """Without its module the events wait, and it is said what to do; with it, they are handled."""
    folder = with_handler(embedded)
    (up,) = embedded.start_all()
    stop_process(up, signal.SIGTERM)
    del embedded.environment["MELDWATCH_HANDLERS"]
    (up,) = embedded.start_all()
    embedded.send_webhook(embedded.meld.world.add().id)
    error = eventually(lambda: subscription(embedded)["error"], message="what is wrong")
    delivery = embedded.get("/api/deliveries")["deliveries"][0]
    stop_process(up, signal.SIGTERM)
    with_handler(embedded)
    embedded.start_all()
    embedded.run("subscriptions", "resume", "mine.keep")

    eventually(lambda: is_complete(embedded), message=f"what was missed; {embedded.logs()}")
    assert "MELDWATCH_HANDLERS" in error
    assert (delivery["state"], delivery["attempts"]) == ("pending", 0)
    assert len(read(folder, "calls")) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("from meldwatch.handlers import on\n@on('connection.gone')\ndef f(event): ...", "'connection.gone'"),
        ("", "mine has no handler"),
        ("import nowhere", "nowhere"),
    ],
)
def test_a_module_that_is_wrong_ends_the_start(embedded: Deployment, text: str, said: str) -> None:
    """``up`` ends with exit code 2 and one line that names the setting; ``doctor`` finds the same."""
    with_handler(embedded, text)

    up, doctor = embedded.run("up"), embedded.run("doctor")

    (line,) = [line for line in up.stderr.splitlines() if "HANDLERS" in line]
    assert (up.returncode, line.startswith("meldwatch: MELDWATCH_HANDLERS: mine"), said in line) == (2, True, True)
    assert doctor.returncode == 1
    assert "FAIL  handlers" in doctor.stdout
    assert said in doctor.stdout
    assert "Traceback" not in up.stderr + doctor.stderr


def test_only_who_calls_them_needs_them(many: Deployment) -> None:
    """``worker`` ends where a module is not there; ``web`` and ``clock`` serve without it."""
    many.environment["MELDWATCH_HANDLERS"] = "nowhere"
    for name in ("web", "clock"):
        many.start(name)
    many.wait_until_ready()
    worker = many.run("worker")

    assert (worker.returncode, "MELDWATCH_HANDLERS: nowhere" in worker.stderr) == (2, True)
    assert json.loads(json.dumps(many.get("/api/subscriptions")["subscriptions"])) == []


def test_the_doctor_names_the_handlers(embedded: Deployment) -> None:
    """Without making their subscriptions."""
    with_handler(embedded)

    ended = embedded.run("doctor")

    assert "ok    handlers     can be called: mine.keep" in ended.stdout
    assert not (embedded.folder / "calls").exists()
