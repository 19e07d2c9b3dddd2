"""The command line in real processes that start within milliseconds: forked from one that has imported everything.

To start ``python -m meldwatch.main`` costs a second of processor time for imports, and the tests of whole processes
start hundreds. So each test process keeps one process that imports the program and runs nothing of it. It forks itself
for each command: the child takes over arguments, environment, folder and output, and then runs the program's own entry.
Each is a process of its own, with its own exit code, and can be killed.
"""

import array
import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, NoReturn

from meldwatch.main import main

MAX_REQUEST_BYTES = 200_000
USED_LATER = ("meldwatch.process.composition", "uvicorn.loops.auto", "psycopg_binary", "redis", "pika")
"""What is imported by a process only once it runs."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE)


class PreloadedProcess:
    """A process of the command line; to be used as a ``subprocess.Popen``."""

    def __init__(self, pid: int, status: socket.socket, arguments: Sequence[str]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status = status
        self._arguments = arguments

    def poll(self) -> int | None:
        """Return the exit code; None while the process runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code once the process has ended.

        Raises:
            subprocess.TimeoutExpired: Where it still runs after ``timeout`` seconds.
        """
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(list(self._arguments), timeout or 0)
            status = self._status.recv(16)
            assert status, "the process that forks the program's processes has ended"
            self.returncode = os.waitstatus_to_exitcode(int(status))
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def start(
    arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, stdout: IO[bytes], stderr: IO[bytes]
) -> PreloadedProcess:
    """Start ``meldwatch ARGUMENTS`` in the background."""
    ours, theirs = socket.socketpair()
    request = json.dumps({"arguments": list(arguments), "env": dict(env), "cwd": str(cwd)}).encode()
    server = _server()
    with theirs:
        files = array.array("i", [stdout.fileno(), stderr.fileno(), theirs.fileno()])
        server.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
    pid = int(ours.recv(16))
    return PreloadedProcess(pid, ours, arguments)


def run(
    arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, timeout: float
) -> subprocess.CompletedProcess[bytes]:
    """Run ``meldwatch ARGUMENTS`` to its end, and return its exit code and output."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = start(arguments, env=env, cwd=cwd, stdout=stdout, stderr=stderr)
        try:
            process.wait(timeout)
        finally:
            process.kill()
        outputs = []
        for file in (stdout, stderr):
            file.seek(0)
            outputs.append(file.read())
    return subprocess.CompletedProcess(list(arguments), process.wait(), *outputs)


@lru_cache(maxsize=1)
def _server() -> socket.socket:
    """Start the process that forks, once for this test process; it ends when this process does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.support.processes.preloaded_program", str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=Path(__file__).parents[3])
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait(10)

    atexit.register(end)
    return ours


class _Forker:
    """The process that forks. Returns from ``serve`` in each child, with what is to be run there."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._children: dict[int, socket.socket] = {}
        self._woken, waker = socket.socketpair()
        for each in (self._woken, waker):
            each.setblocking(False)  # noqa: FBT003 - the standard library has it so
        self._waker = waker

    def serve(self) -> list[str]:
        signal.set_wakeup_fd(self._waker.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while True:
            readable = select.select([self._requests, self._woken], [], [])[0]
            if self._woken in readable:
                with contextlib.suppress(BlockingIOError):
                    self._woken.recv(1024)
                self._report_ended()
            if self._requests in readable:
                request, files, _, _ = socket.recv_fds(self._requests, MAX_REQUEST_BYTES, 3)
                if not request:
                    os._exit(0)
                arguments = self._fork(json.loads(request), *files)
                if arguments is not None:
                    return arguments

    def _fork(self, request: dict[str, object], stdout: int, stderr: int, status: int) -> list[str] | None:
        pid = os.fork()
        if pid == 0:
            self._become(request, stdout, stderr, status)
            return list(request["arguments"])  # type: ignore[call-overload]
        os.close(stdout)
        os.close(stderr)
        self._children[pid] = socket.socket(fileno=status)
        self._children[pid].send(str(pid).encode())
        return None

    def _become(self, request: dict[str, object], stdout: int, stderr: int, status: int) -> None:
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as Python has it
        for each in (self._requests, self._woken, self._waker, *self._children.values()):
            each.close()
        os.close(status)
        for source, target in ((stdout, 1), (stderr, 2)):
            os.dup2(source, target)
            os.close(source)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.chdir(str(request["cwd"]))
        os.environ.clear()
        os.environ.update(request["env"])  # type: ignore[arg-type]

    def _report_ended(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with self._children.pop(pid) as channel, contextlib.suppress(OSError):
                channel.send(str(status).encode())


def _main() -> NoReturn:
    commands = importlib.import_module("meldwatch.cli.commands")
    names = [module.name for module in pkgutil.iter_modules(commands.__path__, f"{commands.__name__}.")]
    for name in (*names, *USED_LATER):
        importlib.import_module(name)
    gc.freeze()
    sys.argv = ["meldwatch", *_Forker(socket.socket(fileno=int(sys.argv[1]))).serve()]
    main()
    sys.exit(0)


if __name__ == "__main__":
    _main()
