"""The command ``events tail``, beside a running service."""

import signal
from pathlib import Path

import pytest

from tests.end_to_end.deployment import Deployment, deployed
from tests.meldwatch.cli.command_helpers import read_events, run_tail
from tests.support.polling import eventually


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_tail_follows_the_feed(served: Deployment, signum: signal.Signals) -> None:
    """``events tail`` prints the events after a position and then new ones; a signal ends it with exit code 0."""
    (id_,) = served.mirror()
    with run_tail(served, "--after", "0") as tail:
        first_events = read_events(tail, len(served.events()))
        served.meld.send_webhooks(served.meld.world.break_connection(id_))
        later_events = read_events(tail, 1)
        tail.send_signal(signum)
        code = tail.wait(10)
        errors = tail.stderr.read() if tail.stderr is not None else ""

    assert first_events + later_events == served.events()
    assert (code, errors) == (0, "")


def test_a_tail_survives_a_killed_service(served: Deployment) -> None:
    """It reports the outage, waits, and resumes at its position: no event is missing or printed twice."""
    (id_,) = served.mirror()
    with run_tail(served, "--after", "0") as tail:
        seen = read_events(tail, len(served.events()))
        for make_change in (served.meld.world.break_connection, served.meld.world.heal):
            served.processes[-1].kill()
            served.processes[-1].wait()
            assert tail.stderr is not None
            assert "does not answer" in tail.stderr.readline()
            served.meld.send_webhooks(make_change(id_))
            served.start("up")
            served.wait_until_ready()
            eventually(lambda last=seen[-1]: served.events()[-1] != last, 20)  # type: ignore[misc]
            assert "is back" in tail.stderr.readline()
            seen += read_events(tail, len(served.events()) - len(seen))
        tail.send_signal(signal.SIGINT)
        code = tail.wait(10)

    assert [event["position"] for event in seen] == list(range(1, len(seen) + 1))
    assert code == 0


@pytest.mark.parametrize(
    ("settings", "code", "message"),
    [
        ({"MELDWATCH_ADMIN_TOKENS": "another"}, 2, "MELDWATCH_READ_TOKENS"),
        ({"MELDWATCH_ADMIN_TOKENS": ""}, 2, "MELDWATCH_READ_TOKENS"),
        ({"MELDWATCH_PORT": "1"}, 3, "http://127.0.0.1:1 does not answer"),
    ],
    ids=["wrong token", "no token", "no service"],
)
def test_a_tail_that_cannot_start_prints_the_reason(
    served: Deployment, settings: dict[str, str], code: int, message: str
) -> None:
    """One line, with the exit code of the contract and without the token."""
    ended = served.run("events", "tail", **settings)

    assert (ended.returncode, message in ended.stderr) == (code, True), ended.stderr
    assert ended.stderr.strip().count("\n") == 0
    assert "another" not in ended.stderr


def test_a_tail_uses_the_generated_token(sqlite_url: str, tmp_path: Path) -> None:
    """On the machine of ``up``, the command needs no setting of its own."""
    with deployed(tmp_path, sqlite_url, "memory://", MELDWATCH_ADMIN_TOKENS="") as deployment:
        deployment.start("up")
        deployment.wait_until_ready()
        deployment.meld.send_webhooks(deployment.meld.world.complete(deployment.meld.world.start().id))
        with run_tail(deployment, "--after", "0") as tail:
            (event,) = read_events(tail, 1)

    assert event["position"] == 1
