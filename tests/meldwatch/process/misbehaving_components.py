"""Misbehaving components: ``python -m tests.meldwatch.process.misbehaving_components STOP_SECONDS KIND...``.

It prints one word per line: ``ready`` when signals are handled, ``started:plain``,
``stopped:plain`` and so on.
"""

import signal
import sys
import threading
import time

from meldwatch.process import supervisor
from runtime import logs


class ScriptedComponent:
    """A component of some kind.

    ``plain`` works, ``dead`` is not alive, ``hanging`` never stops, ``failing`` cannot start, ``clumsy`` raises when
    it is stopped, ``clinging`` leaves a thread running, ``slow`` is still starting when the signal arrives.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def start(self) -> None:
        """Print the start."""
        if self._kind == "failing":
            raise RuntimeError("cannot start")
        if self._kind == "clinging":
            threading.Thread(target=threading.Event().wait).start()
        if self._kind == "slow":
            print_line("starting:slow")
            time.sleep(0.3)
        print_line(f"started:{self._kind}")

    def stop(self) -> None:
        """Print the beginning of the stop, and its end unless it hangs."""
        print_line(f"stopping:{self._kind}")
        if self._kind == "hanging":
            time.sleep(60)
        if self._kind == "clumsy":
            raise RuntimeError("cannot stop")
        print_line(f"stopped:{self._kind}")

    def is_alive(self) -> bool:
        """Return whether it is not dead."""
        return self._kind != "dead"


def print_line(line: str) -> None:
    """Print a line without buffering."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def print_ready() -> None:
    """Print ``ready`` when signals are handled."""
    while signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        time.sleep(0.01)
    print_line("ready")


if __name__ == "__main__":
    logs.configure("json")
    threading.Thread(target=print_ready, daemon=True).start()
    sys.exit(supervisor.run([ScriptedComponent(kind) for kind in sys.argv[2:]], stop_seconds=float(sys.argv[1])))
