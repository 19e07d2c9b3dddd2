"""Runs the receivers of ``examples/`` as processes, as a consumer does."""

import os
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.support.polling import eventually
from tests.support.processes.servers import free_ports

EXAMPLES = Path(__file__).parents[2] / "examples"


class ReceiverProcess:
    """A running receiver and its output.

    Args:
        command: The program.
        folder: Its working directory with its stored events; a second receiver in the same folder is a restart.
        secret: The secret of its subscription.
        port: The port; by default any free one.
    """

    def __init__(self, command: Sequence[str | Path], folder: Path, secret: str, *, port: int | None = None) -> None:
        self.port = port or free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}/events"
        self._output = folder / f"{len(list(folder.glob('*.log')))}.log"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={"PATH": os.environ["PATH"], "SECRET": secret, "PORT": str(self.port)},
                stdout=output,
                stderr=output,
            )
        try:
            eventually(self._is_listening, 30, message=f"the receiver; {self.output}")
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Self:
        """Return the receiver, which listens already."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Kill the process."""
        self.kill()

    @property
    def output(self) -> str:
        """Its output so far."""
        return self._output.read_text()

    @property
    def stored(self) -> list[tuple[str, str]]:
        """Sequence and connection of each event that it stored, in order."""
        lines = [line.split(" ") for line in self.output.splitlines()]
        return [(line[0], line[2]) for line in lines]

    def send_raw(self, request: bytes) -> bytes:
        """Send bytes unchanged; return the head of the answer, if there is one."""
        answer = b""
        # The receiver may close the connection before it has read everything.
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as stream, suppress(OSError):
            stream.sendall(request)
            stream.shutdown(socket.SHUT_WR)
            while b"\r\n\r\n" not in answer and (chunk := stream.recv(65536)):
                answer += chunk
        return answer

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()

    def _is_listening(self) -> bool:
        assert self._process.poll() is None, self.output
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return True
        return False
