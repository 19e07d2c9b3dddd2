import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from runtime.handlers.child_process import HandlerExitedError, HandlerProcess, HandlerTimeoutError
from tests.support.polling import eventually

# The beginning of every child program: its connection to the worker, and a function that answers.
BEGIN = """
import os, socket, subprocess, sys, time
link = socket.socket(fileno=os.dup(0))
lines = link.makefile("rb")
def answer(*words):
    link.sendall(" ".join(map(str, words)).encode() + b"\\n")
"""
ECHO = BEGIN + "for line in lines: link.sendall(line)"


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[HandlerProcess]:
    """A process that runs the program of the test; by default it echoes each line."""
    process = HandlerProcess([sys.executable, "-c", getattr(request, "param", ECHO)])
    yield process
    process.terminate()


def is_running(pid: int) -> bool:
    """Return whether the process exists and has not ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_it_answers_line_by_line(process: HandlerProcess) -> None:
    """Each request has one line as answer, of any length."""
    long = "x" * 3_000_000

    assert [process.request(line, 20) for line in ("a", long, "c")] == [b"a\n", long.encode() + b"\n", b"c\n"]
    assert process.is_alive


@pytest.mark.parametrize(
    "process",
    [BEGIN + "answer('ready'); lines.readline(); time.sleep(60)", BEGIN + "answer('ready'); time.sleep(60)"],
    indirect=True,
)
@pytest.mark.parametrize("line", ["a", "x" * 3_000_000])
def test_a_late_process_times_out(process: HandlerProcess, line: str) -> None:
    """A process that does not answer, or does not even read, raises an error in time."""
    assert process.request("", 20) == b"ready\n"

    with pytest.raises(HandlerTimeoutError):
        process.request(line, 0.05)
    assert process.terminate() == "signal 9"


@pytest.mark.parametrize(
    ("process", "how"),
    [
        (BEGIN + "lines.readline(); os._exit(3)", "exit code 3"),
        (BEGIN + "lines.readline(); os.kill(os.getpid(), 11)", "signal 11"),
        ("", "exit code 0"),
        ("raise SystemExit(7)", "exit code 7"),
    ],
    indirect=["process"],
)
def test_it_reports_how_a_process_ended(process: HandlerProcess, how: str) -> None:
    """The end of the process is noticed at once, and its exit code or signal is reported."""
    with pytest.raises(HandlerExitedError):
        process.request("a", 20)
    assert not process.is_alive
    assert process.terminate() == how


def test_a_command_that_cannot_be_started_raises(tmp_path: Path) -> None:
    """The error is the one of the operating system."""
    with pytest.raises(FileNotFoundError):
        HandlerProcess([str(tmp_path / "nothing")])


@pytest.mark.parametrize(
    "process", [BEGIN + "answer(subprocess.Popen(['sleep', '60']).pid); time.sleep(60)"], indirect=True
)
def test_it_ends_with_its_children(process: HandlerProcess) -> None:
    """A program that a handler runs does not outlive it."""
    pid = int(process.request("", 20))
    before = is_running(pid)

    process.terminate()

    assert before
    eventually(lambda: not is_running(pid), message="the end of the child")


@pytest.mark.parametrize(
    "process",
    [BEGIN + "answer(os.getpid(), os.getpgid(0), os.getsid(0), *sorted(map(int, os.listdir('/proc/self/fd'))))"],
    indirect=True,
)
def test_it_shares_nothing_with_the_worker(process: HandlerProcess) -> None:
    """It has its own process group and session, and only the descriptors of its socket, the log, and its own files."""
    own = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(own, True)  # noqa: FBT003 - its form
    pid, group, session, *descriptors = map(int, process.request("", 20).split())
    os.close(own)

    assert (group, session) == (pid, pid)
    assert len(descriptors) == 5  # its socket twice, the log twice, and the folder that it lists


def test_any_thread_may_kill_it(process: HandlerProcess) -> None:
    """A request under way raises an error; a second kill has no effect."""
    process.kill()
    process.kill()

    with pytest.raises(HandlerExitedError):
        process.request("a", 20)
    assert process.terminate() == f"signal {signal.SIGKILL:d}"


@pytest.mark.parametrize("process", [BEGIN + "lines.readline(); sys.exit(5)"], indirect=True)
def test_a_process_exits_on_request(process: HandlerProcess) -> None:
    """It exits by itself within the time that it has."""
    process.request_exit()
    process.wait(20)

    assert process.terminate() == "exit code 5"
