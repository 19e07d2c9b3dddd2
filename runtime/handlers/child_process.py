"""A child process that runs event handlers, from the worker's side: one line out, one line back, with a timeout.

The child has a clean interpreter, no file descriptors of the worker except its socket and the log, and a process group
of its own: Ctrl-C on a terminal does not reach it, and killing it also kills the processes that its handlers started.
"""

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic

_LOG = 2
"""Standard error. What a handler prints to standard output goes there as well."""


class HandlerProcessError(Exception):
    """The process gave no answer; the message says why."""


class HandlerTimeoutError(HandlerProcessError):
    """The process gave no answer in time."""


class HandlerExitedError(HandlerProcessError):
    """The process ended."""


class HandlerProcess:
    """One child process. Only one thread at a time may send it a request; any thread may kill it.

    Args:
        command: The command that starts the process.

    Raises:
        OSError: If the process cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._socket, child_socket = socket.socketpair()
        self._kill_lock = threading.Lock()
        try:
            with child_socket:
                self._process = subprocess.Popen(  # noqa: S603 - our own program
                    [*command], stdin=child_socket.fileno(), stdout=_LOG, start_new_session=True
                )
        except OSError:
            self._socket.close()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether the process is still connected. Only the thread that may send requests may use this."""
        try:
            self._socket.settimeout(0)
            return self._socket.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def request(self, line: str, seconds: float) -> bytes:
        """Send a line, and return the line that the process answers. After an error it must be terminated.

        Raises:
            HandlerTimeoutError: If there is no answer within ``seconds``.
            HandlerExitedError: If the process ends before it answers.
        """
        deadline = monotonic() + seconds
        answer = bytearray()
        try:
            self._socket.settimeout(seconds)
            self._socket.sendall(line.encode() + b"\n")
            while not answer.endswith(b"\n"):
                self._socket.settimeout(max(deadline - monotonic(), 0.001))
                if not (piece := self._socket.recv(65_536)):
                    raise HandlerExitedError
                answer += piece
        except TimeoutError:
            raise HandlerTimeoutError from None
        except OSError:
            raise HandlerExitedError from None
        return bytes(answer)

    def kill(self) -> None:
        """Kill the process and its children at once; a request under way raises ``HandlerExitedError``."""
        with self._kill_lock:
            if self._process.returncode is None:
                # Kill before waiting: until then the process id cannot be reused by another process.
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def terminate(self) -> str:
        """Kill the process if it runs, and return how it ended. Only the thread that may send requests may do this."""
        self.kill()
        self._socket.close()
        code = self._process.returncode
        return f"exit code {code}" if code >= 0 else f"signal {-code}"

    def request_exit(self) -> None:
        """Ask the process to exit by itself, which takes a moment; then call ``wait`` and ``terminate``."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def wait(self, seconds: float) -> None:
        """Wait until the process has exited by itself, for ``seconds`` at most."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(seconds, 0))
