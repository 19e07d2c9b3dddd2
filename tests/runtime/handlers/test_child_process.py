import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from runtime.handlers.child_process import HandlerExitedError, HandlerProcess, HandlerTimeoutError
from tests.support.polling import eventually

# What they all begin with: the line to the worker, and its answer.
BEGIN = """
import os, socket, subprocess, sys, time
link = socket.socket(fileno=os.dup(0))
lines = link.makefile("rb")
def say(*words):
    link.sendall(" ".join(map(str, words)).encode() + b"\\n")
"""
ECHO = BEGIN + "for line in lines: link.sendall(line)"


@pytest.fixture
def host(request: pytest.FixtureRequest) -> Iterator[HandlerProcess]:
    """A process that runs what the test asks for; by default it says again what it hears."""
    host = HandlerProcess([sys.executable, "-c", getattr(request, "param", ECHO)])
    yield host
    host.terminate()


def is_running(pid: int) -> bool:
    """Return whether there is such a process, and it has not ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_it_answers_line_by_line(host: HandlerProcess) -> None:
    """However long a line is."""
    long = "x" * 3_000_000

    assert [host.request(line, 20) for line in ("a", long, "c")] == [b"a\n", long.encode() + b"\n", b"c\n"]
    assert host.is_alive


@pytest.mark.parametrize(
    "host",
    [BEGIN + "say('ready'); lines.readline(); time.sleep(60)", BEGIN + "say('ready'); time.sleep(60)"],
    indirect=True,
)
@pytest.mark.parametrize("line", ["a", "x" * 3_000_000])
def test_one_that_is_late_is_known_in_time(host: HandlerProcess, line: str) -> None:
    """Whether it does not answer, or does not even listen."""
    assert host.request("", 20) == b"ready\n"

    with pytest.raises(HandlerTimeoutError):
        host.request(line, 0.05)
    assert host.terminate() == "signal 9"


@pytest.mark.parametrize(
    ("host", "how"),
    [
        (BEGIN + "lines.readline(); os._exit(3)", "exit code 3"),
        (BEGIN + "lines.readline(); os.kill(os.getpid(), 11)", "signal 11"),
        ("", "exit code 0"),
        ("raise SystemExit(7)", "exit code 7"),
    ],
    indirect=["host"],
)
def test_one_that_ends_says_how(host: HandlerProcess, how: str) -> None:
    """It is known at once, and so is what became of it."""
    with pytest.raises(HandlerExitedError):
        host.request("a", 20)
    assert not host.is_alive
    assert host.terminate() == how


def test_what_cannot_be_started_is_an_error_of_the_system(tmp_path: Path) -> None:
    """And nothing is left of it."""
    with pytest.raises(FileNotFoundError):
        HandlerProcess([str(tmp_path / "nothing")])


@pytest.mark.parametrize("host", [BEGIN + "say(subprocess.Popen(['sleep', '60']).pid); time.sleep(60)"], indirect=True)
def test_it_ends_with_what_it_has_started(host: HandlerProcess) -> None:
    """A program that a handler runs does not outlive it."""
    pid = int(host.request("", 20))
    before = is_running(pid)

    host.terminate()

    assert before
    eventually(lambda: not is_running(pid), message="the end of what it has started")


@pytest.mark.parametrize(
    "host",
    [BEGIN + "say(os.getpid(), os.getpgid(0), os.getsid(0), *sorted(map(int, os.listdir('/proc/self/fd'))))"],
    indirect=True,
)
def test_it_has_nothing_of_the_workers(host: HandlerProcess) -> None:
    """A group and a session of its own, and no descriptor but its line, the log, and those that it opened itself."""
    own = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(own, True)  # noqa: FBT003 - its form
    pid, group, session, *descriptors = map(int, host.request("", 20).split())
    os.close(own)

    assert (group, session) == (pid, pid)
    assert len(descriptors) == 5  # its line twice, the log twice, and the folder that it looks into


def test_any_thread_may_end_it(host: HandlerProcess) -> None:
    """Who asks it hears of it; to end it twice is nothing."""
    host.kill()
    host.kill()

    with pytest.raises(HandlerExitedError):
        host.request("a", 20)
    assert host.terminate() == f"signal {signal.SIGKILL:d}"


@pytest.mark.parametrize("host", [BEGIN + "lines.readline(); sys.exit(5)"], indirect=True)
def test_one_that_is_dismissed_ends_by_itself(host: HandlerProcess) -> None:
    """It has the time that it is given."""
    host.request_exit()
    host.wait(20)

    assert host.terminate() == "exit code 5"
