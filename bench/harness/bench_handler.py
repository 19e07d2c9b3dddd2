"""An event handler for benchmarks: it appends the position and time of each event to a file."""

import os
import time
from pathlib import Path

from meldwatch.handlers import Event, on

PATH_VARIABLE = "BENCH_HANDLED"
"""The environment variable with the path of the file."""


@on()
def record(event: Event) -> None:
    """Append the position and the Unix time of the event."""
    received_at = time.time()
    with Path(os.environ[PATH_VARIABLE]).open("a") as file:
        file.write(f"{event.position} {received_at}\n")
