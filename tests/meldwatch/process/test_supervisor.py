import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meldwatch.process.supervisor import STOP_SECONDS

ROOT = Path(__file__).parent.parent.parent.parent
Start = Callable[..., "Run"]


class Run:
    """A running process, and what it said."""

    def __init__(self, stop_seconds: float, *kinds: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.meldwatch.process.misbehaving_parts", str(stop_seconds), *kinds],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def until(self, line: str) -> None:
        """Wait until it has said this."""
        assert self._process.stdout is not None
        while (said := self._process.stdout.readline()) and said.strip() != line:
            pass
        assert said.strip() == line

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def end(self) -> tuple[int, list[str], float]:
        """Wait for its end; return the exit code, what it said in the meantime, and how many seconds that took."""
        began = time.monotonic()
        said, _ = self._process.communicate(timeout=20)
        lines = [line for line in said.split() if line != "ready"]
        return self._process.returncode, lines, time.monotonic() - began

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def start() -> Iterator[Start]:
    """Start processes that do not outlive the test."""
    runs: list[Run] = []

    def start(*kinds: str, stop_seconds: float = 5) -> Run:
        runs.append(Run(stop_seconds, *kinds))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()


def test_there_is_time_left_of_ten_seconds() -> None:
    """The contract gives ten; what is left is for the interpreter."""
    assert 5 <= STOP_SECONDS <= 9.5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_zero(start: Start, number: int) -> None:
    """Parts stop in the reverse of their order, and the process was told to end: exit code 0, soon."""
    run = start("plain", "other", "third")
    run.until("started:third")
    run.signal(number)
    code, said, seconds = run.end()

    stopped = [line for line in said if line.startswith("stopped")]
    assert (code, stopped) == (0, ["stopped:third", "stopped:other", "stopped:plain"])
    assert seconds < 2


def test_nothing_to_run_waits_for_a_signal(start: Start) -> None:
    """A process without parts lives until it is told to end."""
    run = start()
    run.until("ready")
    run.signal(signal.SIGTERM)

    assert run.end()[:2] == (0, [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_part_that_hangs_does_not_keep_it(start: Start, number: int) -> None:
    """When the time is up the process ends without it, and still with exit code 0."""
    run = start("plain", "hanging", "other", stop_seconds=0.5)
    run.until("started:other")
    run.signal(number)
    code, said, seconds = run.end()

    assert (code, said) == (0, ["stopping:other", "stopped:other", "stopping:hanging"])
    assert 0.3 < seconds < 2.5


def test_a_thread_that_clings_does_not_keep_it(start: Start) -> None:
    """So does a thread that is left behind."""
    run = start("clinging", stop_seconds=0.5)
    run.until("started:clinging")
    run.signal(signal.SIGTERM)

    assert run.end()[:2] == (0, ["stopping:clinging", "stopped:clinging"])


def test_impatience_changes_nothing(start: Start) -> None:
    """More signals while it is stopping neither hurry nor break it."""
    run = start("hanging", "plain", stop_seconds=0.7)
    run.until("started:plain")
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
        run.signal(number)

    assert run.end()[:2] == (0, ["stopping:plain", "stopped:plain", "stopping:hanging"])


def test_a_signal_during_the_start_is_obeyed(start: Start) -> None:
    """What was started by then is stopped."""
    run = start("plain", "slow")
    run.until("starting:slow")
    run.signal(signal.SIGTERM)
    code, said, _ = run.end()

    assert (code, said[-2:]) == (0, ["stopping:plain", "stopped:plain"])


def test_a_dead_part_ends_it_with_one(start: Start) -> None:
    """A process with a part that does its work no more is started anew by whoever watches it."""
    run = start("plain", "dead", "other")
    code, said, seconds = run.end()

    assert (code, said[-2:]) == (1, ["stopping:plain", "stopped:plain"])
    assert seconds < 4


def test_a_dead_part_beside_one_that_hangs_ends_it_with_one(start: Start) -> None:
    """Nobody may take a failure for a wish because something hung on the way out."""
    run = start("hanging", "dead", stop_seconds=0.3)

    assert run.end()[0] == 1


def test_a_part_that_cannot_start_ends_it(start: Start) -> None:
    """What was started before is stopped, what comes after is never started."""
    code, said, _ = start("plain", "failing", "other").end()

    assert (code, said) == (1, ["started:plain", "stopping:plain", "stopped:plain"])


def test_a_part_that_cannot_stop_keeps_no_other_from_it(start: Start) -> None:
    """An error while stopping is one part's; the signal was obeyed."""
    run = start("plain", "clumsy", "other")
    run.until("started:other")
    run.signal(signal.SIGTERM)
    code, said, _ = run.end()

    assert (code, said) == (
        0,
        ["stopping:other", "stopped:other", "stopping:clumsy", "stopping:plain", "stopped:plain"],
    )
