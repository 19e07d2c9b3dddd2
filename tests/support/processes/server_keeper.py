"""Run a server as long as a process holds a lock; then end it and remove its directory.

However a test run ends, by an exception, Ctrl-C or SIGKILL, the kernel releases its lock, and no server outlives it.
Used by ``tests.support.processes.servers``:

    python server_keeper.py LOCK SIGNAL USER DIRECTORY COMMAND...

``SIGNAL`` is the number that ends the server; ``USER`` is the user that it runs as, ``-`` for the present one. SIGTERM
to the keeper ends the server and removes the directory; a server that ends on its own leaves it.
"""

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

POLL_SECONDS = 0.1
STOP_SECONDS = 10


class _StopRequestedError(Exception):
    """SIGTERM was received."""


def _stop(_number: int, _frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _StopRequestedError


def _is_held(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _wait_for_stop_request(server: subprocess.Popen[bytes], lock: int) -> bool:
    """Wait until the server ends (return False) or has to be ended (return True)."""
    try:
        while _is_held(lock):
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(POLL_SECONDS)
                return False
    except _StopRequestedError:
        pass
    return True


def _end(server: subprocess.Popen[bytes], number: int) -> None:
    for kill in (number, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, kill)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)


def _identity(user: str) -> dict[str, Any]:
    if user == "-":
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _remove_run(run: Path) -> None:
    """Remove the directory of the run, if this is its last keeper: no other process may be left to do it."""
    if not list(run.glob("*.server")):
        shutil.rmtree(run, ignore_errors=True)


def main() -> int:
    """Keep one server; return its exit code, or 0 if the keeper ended it."""
    lock_path, number, user, directory, *command = sys.argv[1:]
    lock = os.open(lock_path, os.O_RDWR)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    with Path(directory, "output").open("ab") as output:
        server = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            **_identity(user),
        )
    sys.stdout.write(f"{server.pid}\n")
    sys.stdout.flush()
    if not _wait_for_stop_request(server, lock):
        return server.returncode
    _end(server, int(number))
    shutil.rmtree(directory, ignore_errors=True)
    if not _is_held(lock):
        _remove_run(Path(lock_path).parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
