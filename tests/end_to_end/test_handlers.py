"""Handlers in the real program: order, retries, timeouts and crashes."""

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
from tests.end_to_end.test_crashes import run_random_activity
from tests.support.polling import eventually

EXAMPLE = Path(__file__).parents[2] / "examples" / "handlers.py"
PUSH_LEASE_SECONDS = 30.0

# The handler appends a line per call to a file. Other files of the test script faults, or block it.
HANDLER_MODULE = """
import os, pathlib, time
from meldwatch.handlers import on

@on(seconds=3)
def record(event):
    line = f"{event.subject} {event.sequence} {os.getpid()}\\n".encode()
    with open("calls", "ab", buffering=0) as calls:
        calls.write(line)
    fault = pathlib.Path(f"fault-{event.subject}-{event.sequence}")
    if fault.exists():
        kind = fault.read_text()
        fault.unlink()
        if kind == "raise":
            raise RuntimeError("a scripted error")
        if kind == "hang":
            time.sleep(60)
        if kind == "die":
            os._exit(3)
    while pathlib.Path("blocked").exists():
        time.sleep(0.01)
    with open("completed", "ab", buffering=0) as completed:
        completed.write(line)
"""


def install_handler(deployment: Deployment, text: str = HANDLER_MODULE) -> Path:
    """Configure a module with handlers for all processes; return the folder that the handlers write to."""
    (deployment.folder / "mine.py").write_text(text)
    deployment.environment["MELDWATCH_HANDLERS"] = "mine"
    return deployment.folder


def read_record(folder: Path, name: str) -> list[tuple[str, str]]:
    """Return the connections and sequences that the handler recorded in a file, in order."""
    path = folder / name
    return [tuple(line.split()[:2]) for line in path.read_text().splitlines()] if path.exists() else []  # type: ignore[misc]


def group_by_connection(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    """Return each connection's sequences in order, without duplicates."""
    order: dict[str, list[str]] = defaultdict(list)
    for subject, sequence in dict.fromkeys(pairs):
        order[subject].append(sequence)
    return order


def has_handled_all_events(deployment: Deployment) -> bool:
    """Return whether the handler has completed all events of the feed."""
    events = {(event["subject"], event["sequence"]) for event in deployment.events()}
    return set(read_record(deployment.folder, "completed")) == events


def get_subscription(deployment: Deployment, name: str = "mine.record") -> dict[str, Any]:
    found: dict[str, Any] = deployment.get(f"/api/subscriptions/{name}")
    return found


def read_rows(path: Path, table: str) -> list[tuple[Any, ...]]:
    """Return the rows of a table that a handler creates on its first call."""
    with closing(sqlite3.connect(path)) as database:
        exists = database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        return database.execute(f"SELECT * FROM {table}").fetchall() if exists else []


def list_delivery_states(deployment: Deployment) -> list[str]:
    return [row["state"] for row in deployment.get("/api/deliveries")["deliveries"]]


def test_the_documented_example_works(deployment: Deployment) -> None:
    """On every set-up: a customer who must log in again receives exactly one reminder."""
    shutil.copy(EXAMPLE, deployment.folder)
    deployment.environment["MELDWATCH_HANDLERS"] = "handlers"
    deployment.start_all()
    meld = deployment.meld
    eventually(
        lambda: len(deployment.get("/api/subscriptions")["subscriptions"]) == 2,
        message="the subscriptions of the handlers",
    )
    connection = meld.world.start()
    for act in (meld.world.complete, meld.world.break_connection):
        meld.send_webhooks(act(connection.id))
        eventually(
            lambda: connection.id in deployment.mirror() and deployment.mirror_matches_meld(),
            message="a mirror that matches Meld",
        )

    reminders = eventually(
        lambda: read_rows(deployment.folder / "reminders.db", "reminder"),
        message=f"a reminder; {deployment.logs()}",
    )
    last = deployment.events()[-1]
    snapshot = last["data"]["connection"]
    reason = last["data"]["current"]["status_reason"]
    assert reminders == [(last["id"], snapshot["external_customer_id"], snapshot["institution_name"], reason)]
    eventually(lambda: list_delivery_states(deployment) == ["delivered"] * 2, message="two acknowledged deliveries")


def test_failed_events_are_retried_in_order(embedded: Deployment) -> None:
    """After an exception, a timeout and a crash of the handler's process: later events of the connection wait."""
    folder = install_handler(embedded)
    embedded.start_all()
    connections = [embedded.meld.world.add().id for _ in range(4)]
    for connection, fault in zip(connections, ("raise", "hang", "die"), strict=False):
        (folder / f"fault-{connection}-00000001").write_text(fault)
    for connection in connections:
        embedded.send_webhook(connection)
    eventually(lambda: len(embedded.events()) == 4, message="the first events")
    for connection in connections:
        embedded.meld.send_webhooks(embedded.meld.world.break_connection(connection))

    eventually(
        lambda: has_handled_all_events(embedded) and len(embedded.events()) == 8,
        40,
        message=f"handling of all events; {embedded.logs()}",
    )
    calls = defaultdict(list)
    for subject, sequence in read_record(folder, "calls"):
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
    eventually(lambda: get_subscription(embedded)["error"] is None, message="a subscription without an error")


def test_events_are_handled_in_order_despite_crashes(embedded: Deployment) -> None:
    """SIGKILL of the whole service under load: every event is handled, in order per connection."""
    folder = install_handler(embedded)
    embedded.start_all()
    activity = threading.Thread(target=run_random_activity, args=(embedded.meld, 4, 15))
    activity.start()
    for count in (2, 6):
        eventually(lambda count=count: len(read_record(folder, "calls")) >= count, 40, message="calls of the handler")  # type: ignore[misc]
        embedded.processes[-1].kill()
        embedded.processes[-1].wait()
        embedded.start("up")
        embedded.wait_until_ready()
    activity.join()

    eventually(
        lambda: embedded.has_no_pending_webhooks() and has_handled_all_events(embedded),
        60,
        message=f"handling of all events; {embedded.logs()}",
    )
    assert embedded.events()
    assert all(order == sorted(order) for order in group_by_connection(read_record(folder, "completed")).values())


def test_a_killed_workers_handler_exits_and_its_event_is_retried(multi_process: Deployment) -> None:
    """SIGKILL of a worker during a handler call: the handler's process exits, and another worker retries the event."""
    folder = install_handler(multi_process)
    _web, worker, _clock = multi_process.start_all()
    eventually(lambda: multi_process.get("/api/subscriptions")["subscriptions"], message="the subscription")
    (folder / "blocked").touch()
    connection = multi_process.meld.world.add().id
    multi_process.send_webhook(connection)
    eventually(lambda: read_record(folder, "calls"), 30, message=f"a call; {multi_process.logs()}")
    pid = (folder / "calls").read_text().split()[2]
    worker.kill()
    worker.wait()
    eventually(lambda: not Path(f"/proc/{pid}").exists(), message="the exit of the handler's process")
    (folder / "blocked").unlink()
    multi_process.start("worker")
    multi_process.meld.send_webhooks(multi_process.meld.world.break_connection(connection))

    eventually(
        lambda: has_handled_all_events(multi_process) and len(multi_process.events()) == 2,
        PUSH_LEASE_SECONDS + 30,
        message=multi_process.logs(),
    )
    assert [int(sequence) for _subject, sequence in read_record(folder, "calls")] == [1, 1, 2]


def test_worker_shutdown_stops_handlers_and_releases_deliveries(multi_process: Deployment) -> None:
    """SIGTERM during a slow handler call: exit code 0 in time, and the next worker retries without waiting."""
    folder = install_handler(multi_process, HANDLER_MODULE.replace("seconds=3", "seconds=20"))
    _web, worker, _clock = multi_process.start_all()
    eventually(lambda: multi_process.get("/api/subscriptions")["subscriptions"], message="the subscription")
    (folder / "blocked").touch()
    multi_process.send_webhook(multi_process.meld.world.add().id)
    eventually(lambda: read_record(folder, "calls"), 30, message=f"a call; {multi_process.logs()}")
    pid = (folder / "calls").read_text().split()[2]

    code = stop_process(worker, signal.SIGTERM)
    has_exited = not Path(f"/proc/{pid}").exists()
    (folder / "blocked").unlink()
    multi_process.start("worker")

    eventually(
        lambda: has_handled_all_events(multi_process),
        PUSH_LEASE_SECONDS - 10,
        message=f"the second call; {multi_process.logs()}",
    )
    (delivery,) = multi_process.get("/api/deliveries")["deliveries"]
    assert (code, has_exited) == (0, True)
    assert (len(read_record(folder, "calls")), delivery["attempts"], len(delivery["outcomes"])) == (2, 1, 1)


def test_workers_that_start_concurrently_create_one_subscription(multi_process: Deployment) -> None:
    """On PostgreSQL and Valkey, with three workers; each event is handled once."""
    folder = install_handler(multi_process)
    for name in ("web", "clock", "worker", "worker", "worker"):
        multi_process.start(name)
    multi_process.wait_until_ready()
    eventually(lambda: multi_process.logs().count("mine.record") >= 3, 30, message="three workers with the handler")
    multi_process.send_webhook(multi_process.meld.world.add().id)
    run_random_activity(multi_process.meld, 2, 10)

    eventually(
        lambda: (
            multi_process.has_no_pending_webhooks() and multi_process.events() and has_handled_all_events(multi_process)
        ),
        30,
        message=multi_process.logs(),
    )
    assert [row["name"] for row in multi_process.get("/api/subscriptions")["subscriptions"]] == ["mine.record"]
    assert len(read_record(folder, "completed")) == len(multi_process.events())


def test_an_operator_pauses_and_resumes_a_handler(embedded: Deployment) -> None:
    """The CLI pauses the subscription of a handler; after a resume the handler receives all missed events."""
    folder = install_handler(embedded)
    embedded.start_all()
    paused = embedded.run("subscriptions", "pause", "mine.record")
    doctor = embedded.run("doctor")
    connection = embedded.meld.world.add().id
    embedded.send_webhook(connection)
    eventually(lambda: embedded.events() and embedded.has_no_pending_webhooks(), message="the event")
    embedded.meld.send_webhooks(embedded.meld.world.break_connection(connection))
    eventually(lambda: len(embedded.events()) == 2, message="the second event")
    during = read_record(folder, "calls")
    resumed = embedded.run("subscriptions", "resume", "mine.record")
    rotated = embedded.run("subscriptions", "rotate", "mine.record")

    eventually(lambda: has_handled_all_events(embedded), message=f"handling of the missed events; {embedded.logs()}")
    assert (paused.returncode, resumed.returncode, during) == (0, 0, [])
    assert (rotated.returncode, "no secret" in rotated.stderr) == (2, True)
    assert "ok    encryption" in doctor.stdout


def test_events_stay_pending_while_a_handler_is_missing(embedded: Deployment) -> None:
    """Without its module the deliveries stay pending, and the subscription shows the setting to change."""
    folder = install_handler(embedded)
    (up,) = embedded.start_all()
    stop_process(up, signal.SIGTERM)
    del embedded.environment["MELDWATCH_HANDLERS"]
    (up,) = embedded.start_all()
    embedded.send_webhook(embedded.meld.world.add().id)
    error = eventually(lambda: get_subscription(embedded)["error"], message="the error of the subscription")
    delivery = embedded.get("/api/deliveries")["deliveries"][0]
    stop_process(up, signal.SIGTERM)
    install_handler(embedded)
    embedded.start_all()
    embedded.run("subscriptions", "resume", "mine.record")

    eventually(lambda: has_handled_all_events(embedded), message=f"handling of the missed events; {embedded.logs()}")
    assert "MELDWATCH_HANDLERS" in error
    assert (delivery["state"], delivery["attempts"]) == ("pending", 0)
    assert len(read_record(folder, "calls")) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from meldwatch.handlers import on\n@on('connection.gone')\ndef f(event): ...", "'connection.gone'"),
        ("", "mine has no handler"),
        ("import nowhere", "nowhere"),
    ],
)
def test_an_invalid_handler_module_prevents_the_start(embedded: Deployment, text: str, expected: str) -> None:
    """``up`` exits with code 2 and prints one line that names the setting; ``doctor`` reports the same error."""
    install_handler(embedded, text)

    up, doctor = embedded.run("up"), embedded.run("doctor")

    (line,) = [line for line in up.stderr.splitlines() if "HANDLERS" in line]
    assert (up.returncode, line.startswith("meldwatch: MELDWATCH_HANDLERS: mine"), expected in line) == (2, True, True)
    assert doctor.returncode == 1
    assert "FAIL  handlers" in doctor.stdout
    assert expected in doctor.stdout
    assert "Traceback" not in up.stderr + doctor.stderr


def test_only_workers_need_the_handler_modules(multi_process: Deployment) -> None:
    """If a module is missing, ``worker`` does not start; ``web`` and ``clock`` run without it."""
    multi_process.environment["MELDWATCH_HANDLERS"] = "nowhere"
    for name in ("web", "clock"):
        multi_process.start(name)
    multi_process.wait_until_ready()
    worker = multi_process.run("worker")

    assert (worker.returncode, "MELDWATCH_HANDLERS: nowhere" in worker.stderr) == (2, True)
    assert json.loads(json.dumps(multi_process.get("/api/subscriptions")["subscriptions"])) == []


def test_doctor_lists_the_handlers(embedded: Deployment) -> None:
    """``doctor`` lists the handlers, and creates no subscription."""
    install_handler(embedded)

    ended = embedded.run("doctor")

    assert "ok    handlers     can be called: mine.record" in ended.stdout
    assert not (embedded.folder / "calls").exists()
