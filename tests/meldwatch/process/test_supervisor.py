import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meldwatch.process.supervisor import STOP_SECONDS

ROOT = Path(__file__).parent.parent.parent.parent
Start = Callable[..., "RunningProcess"]


class RunningProcess:
    """A running process and its output."""

    def __init__(self, stop_seconds: float, *kinds: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.meldwatch.process.misbehaving_components", str(stop_seconds), *kinds],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def until(self, line: str) -> None:
        """Read its output up to this line."""
        assert self._process.stdout is not None
        while (line_read := self._process.stdout.readline()) and line_read.strip() != line:
            pass
        assert line_read.strip() == line

    def signal(self, number: int) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def end(self) -> tuple[int, list[str], float]:
        """Wait for its end; return exit code, lines printed meanwhile, and seconds."""
        began = time.monotonic()
        output, _ = self._process.communicate(timeout=20)
        lines = [line for line in output.split() if line != "ready"]
        return self._process.returncode, lines, time.monotonic() - began

    def kill(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def start() -> Iterator[Start]:
    """Start processes that do not outlive the test."""
    runs: list[RunningProcess] = []

    def start(*kinds: str, stop_seconds: float = 5) -> RunningProcess:
        runs.append(RunningProcess(stop_seconds, *kinds))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()


def test_the_stop_timeout_is_below_ten_seconds() -> None:
    """A process must end within 10 s; the rest is for the interpreter."""
    assert 5 <= STOP_SECONDS <= 9.5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_with_exit_code_0(start: Start, number: int) -> None:
    """Components stop in reverse order, and the exit code is 0."""
    run = start("plain", "other", "third")
    run.until("started:third")
    run.signal(number)
    code, lines, seconds = run.end()

    stopped = [line for line in lines if line.startswith("stopped")]
    assert (code, stopped) == (0, ["stopped:third", "stopped:other", "stopped:plain"])
    assert seconds < 2


def test_a_process_without_components_waits_for_a_signal(start: Start) -> None:
    """It runs until it gets one."""
    run = start()
    run.until("ready")
    run.signal(signal.SIGTERM)

    assert run.end()[:2] == (0, [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_hanging_component_does_not_block_the_shutdown(start: Start, number: int) -> None:
    """After the timeout, the process ends without it, still with exit code 0."""
    run = start("plain", "hanging", "other", stop_seconds=0.5)
    run.until("started:other")
    run.signal(number)
    code, lines, seconds = run.end()

    assert (code, lines) == (0, ["stopping:other", "stopped:other", "stopping:hanging"])
    assert 0.3 < seconds < 2.5


def test_a_leftover_thread_does_not_block_the_shutdown(start: Start) -> None:
    """A thread that a component leaves running does not keep the process alive."""
    run = start("clinging", stop_seconds=0.5)
    run.until("started:clinging")
    run.signal(signal.SIGTERM)

    assert run.end()[:2] == (0, ["stopping:clinging", "stopped:clinging"])


def test_further_signals_change_nothing(start: Start) -> None:
    """Signals during the shutdown neither speed it up nor break it."""
    run = start("hanging", "plain", stop_seconds=0.7)
    run.until("started:plain")
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
        run.signal(number)

    assert run.end()[:2] == (0, ["stopping:plain", "stopped:plain", "stopping:hanging"])


def test_a_signal_during_the_start_is_handled(start: Start) -> None:
    """The components that were started by then are stopped."""
    run = start("plain", "slow")
    run.until("starting:slow")
    run.signal(signal.SIGTERM)
    code, lines, _ = run.end()

    assert (code, lines[-2:]) == (0, ["stopping:plain", "stopped:plain"])


def test_a_dead_component_ends_the_process_with_exit_code_1(start: Start) -> None:
    """The process ends, so that its manager restarts it."""
    run = start("plain", "dead", "other")
    code, lines, seconds = run.end()

    assert (code, lines[-2:]) == (1, ["stopping:plain", "stopped:plain"])
    assert seconds < 4


def test_a_dead_component_beside_a_hanging_one_ends_with_exit_code_1(start: Start) -> None:
    """The exit code is that of the failure, although another component hangs during the shutdown."""
    run = start("hanging", "dead", stop_seconds=0.3)

    assert run.end()[0] == 1


def test_a_component_that_cannot_start_ends_the_process(start: Start) -> None:
    """Components before it are stopped; components after it are never started."""
    code, lines, _ = start("plain", "failing", "other").end()

    assert (code, lines) == (1, ["started:plain", "stopping:plain", "stopped:plain"])


def test_a_component_that_cannot_stop_does_not_affect_others(start: Start) -> None:
    """The others stop, and the exit code is 0."""
    run = start("plain", "clumsy", "other")
    run.until("started:other")
    run.signal(signal.SIGTERM)
    code, lines, _ = run.end()

    assert (code, lines) == (
        0,
        ["stopping:other", "stopped:other", "stopping:clumsy", "stopping:plain", "stopped:plain"],
    )
