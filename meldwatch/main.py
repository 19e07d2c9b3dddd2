"""The entry of the command ``meldwatch``."""

import os
import signal
import sys
from types import FrameType

SERVING = frozenset({"up", "web", "worker", "clock", "simulate"})
"""Commands that run until they are told to stop; being told before they have begun is no failure."""


def main() -> None:
    """Run the command line."""
    if SERVING.intersection(sys.argv[1:2]):
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, _end)
    # Reading the program takes a while, in which a signal may come.
    from meldwatch.cli.root import cli  # noqa: PLC0415

    try:
        cli(prog_name="meldwatch")
    except BrokenPipeError:
        # A reader of our output that ends early (head, less) is no error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _end(_signum: int, _frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main()
