"""Entry point of the command ``meldwatch``: signals during start-up, then the command line."""

import signal
import sys
from types import FrameType

LONG_RUNNING_COMMANDS = frozenset({"up", "web", "worker", "clock", "simulate"})
"""Commands that run until a signal comes. A signal that comes before they have started is no failure either."""


def main() -> None:
    """Run the command line."""
    if LONG_RUNNING_COMMANDS.intersection(sys.argv[1:2]):
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, _exit)
    # Imports take a while, in which a signal may come.
    from meldwatch.cli.root import cli  # noqa: PLC0415

    cli(prog_name="meldwatch")


def _exit(_signum: int, _frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main()
