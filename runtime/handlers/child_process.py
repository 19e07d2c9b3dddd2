"""Host: one process that runs handlers, as a worker sees it: a line out, a line back, in time or not at all.

It has a clean interpreter, no descriptor of the worker's but its own socket and the log, and a process group to itself:
Ctrl-C on a terminal does not reach it, and it ends with whatever its handlers have started.
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
"""Standard error: what a handler prints goes there as well."""


class HandlerProcessError(Exception):
    """It gave no answer; the message says why."""


class HandlerTimeoutError(HandlerProcessError):
    """It gave no answer in time."""


class HandlerExitedError(HandlerProcessError):
    """Its process ended."""


class HandlerProcess:
    """One process. It is asked by one thread at a time; any thread may end it.

    Args:
        command: What starts it.

    Raises:
        OSError: Where it cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._link, theirs = socket.socketpair()
        self._ending = threading.Lock()
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - our own program
                    [*command], stdin=theirs.fileno(), stdout=_LOG, start_new_session=True
                )
        except OSError:
            self._link.close()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether it is still on the line. Only who may ask it may look."""
        try:
            self._link.settimeout(0)
            return self._link.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def request(self, line: str, seconds: float) -> bytes:
        """Say a line, and return the line that it answers. After an error it must be ended.

        Raises:
            LateError: Where it takes longer.
            EndedError: Where its process ends meanwhile.
        """
        deadline = monotonic() + seconds
        answer = bytearray()
        try:
            self._link.settimeout(seconds)
            self._link.sendall(line.encode() + b"\n")
            while not answer.endswith(b"\n"):
                self._link.settimeout(max(deadline - monotonic(), 0.001))
                if not (piece := self._link.recv(65_536)):
                    raise HandlerExitedError
                answer += piece
        except TimeoutError:
            raise HandlerTimeoutError from None
        except OSError:
            raise HandlerExitedError from None
        return bytes(answer)

    def kill(self) -> None:
        """End its process and what that has started, at once; who asks it hears ``HandlerExitedError``."""
        with self._ending:
            if self._process.returncode is None:
                # Before it is waited for: until then nobody else can have its number.
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def terminate(self) -> str:
        """End it, and return how it ended. Only who may ask it may do this."""
        self.kill()
        self._link.close()
        code = self._process.returncode
        return f"exit code {code}" if code >= 0 else f"signal {-code}"

    def request_exit(self) -> None:
        """Tell it to end by itself, which takes it a moment. Only who may ask it may do this; then ``terminate`` it."""
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_WR)

    def wait(self, seconds: float) -> None:
        """Wait until it has ended by itself, so long at most."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(seconds, 0))
