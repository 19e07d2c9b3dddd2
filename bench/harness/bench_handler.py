"""A handler for the bench: it notes when each event came, in a file."""

import os
import time
from pathlib import Path

from meldwatch.handlers import Event, on

PATH = "BENCH_HANDLED"
"""Names the file."""


@on()
def note(event: Event) -> None:
    """Note it, in seconds of the epoch."""
    came = time.time()
    with Path(os.environ[PATH]).open("a") as file:
        file.write(f"{event.position} {came}\n")
