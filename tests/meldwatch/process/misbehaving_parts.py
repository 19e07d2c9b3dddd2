"""A process made of parts that misbehave: ``python -m tests.meldwatch.process.misbehaving_parts STOP_SECONDS KIND...``.

It says on its output what happens, one word a line: ``ready`` once it obeys signals, ``started:plain``,
``stopped:plain`` and so on.
"""

import signal
import sys
import threading
import time

from meldwatch.process import supervisor
from runtime import logs


class Part:
    """A part of some kind.

    ``plain`` works, ``dead`` is not alive, ``hanging`` never stops, ``failing`` cannot start, ``clumsy`` raises when
    it is stopped, ``clinging`` leaves a thread behind, ``slow`` is still starting when the signal comes.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def start(self) -> None:
        """Say so."""
        if self._kind == "failing":
            raise RuntimeError("cannot start")
        if self._kind == "clinging":
            threading.Thread(target=threading.Event().wait).start()
        if self._kind == "slow":
            say("starting:slow")
            time.sleep(0.3)
        say(f"started:{self._kind}")

    def stop(self) -> None:
        """Say so, unless it hangs."""
        say(f"stopping:{self._kind}")
        if self._kind == "hanging":
            time.sleep(60)
        if self._kind == "clumsy":
            raise RuntimeError("cannot stop")
        say(f"stopped:{self._kind}")

    def is_alive(self) -> bool:
        """Tell."""
        return self._kind != "dead"


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def watch() -> None:
    """Say when signals are obeyed."""
    while signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        time.sleep(0.01)
    say("ready")


if __name__ == "__main__":
    logs.configure("json")
    threading.Thread(target=watch, daemon=True).start()
    sys.exit(supervisor.run([Part(kind) for kind in sys.argv[2:]], stop_seconds=float(sys.argv[1])))
