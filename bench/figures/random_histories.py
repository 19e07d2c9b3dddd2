"""Random histories with every fault on: how many mirrors are wrong at the end, and how many reads they cost.

Nothing is timed here. The number of wrong mirrors matters, over many histories.
"""

import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing

from bench.harness.stack import Stack
from bench.report import Figure
from tests.end_to_end.manual_time import timeless
from tests.end_to_end.random_history import History

HISTORIES = 1_000
"""On each database; half of them with at least one webhook of each change, half with a reconcile."""


def measure(stack: Stack) -> Figure:
    """Run them on SQLite and on PostgreSQL, at the same time."""
    count = 20 if stack.is_quick else HISTORIES
    figure = Figure(
        "histories",
        "random histories of groups of 1 to 5, every fault on",
        ["database", "histories", "acts of Meld's world", "reads", "seconds", "mirrors that are not the truth"],
    )
    urls = {"SQLite": stack.new_sqlite(), "PostgreSQL": stack.new_postgres()}
    command = [sys.executable, "-m", "bench.figures.random_histories", str(count)]
    children = {
        name: subprocess.Popen([*command, url], stdout=subprocess.PIPE, text=True) for name, url in urls.items()
    }
    for name, child in children.items():
        output, _ = child.communicate()
        acts, reads, wrong, seconds = output.split()[-4:]
        figure.rows.append([name, str(count), acts, reads, seconds, wrong])
        figure.check(f"exceptions, {name}", target="0", measured=wrong, is_met=wrong == "0" and child.returncode == 0)
    figure.notes.append(
        "Half of them receive at least one webhook of each change and no reconcile; the others may receive none and"
        " have one. Then every state is compared with the simulator's truth. See tests/end_to_end/random_history.py."
    )
    return figure


def main(count: int, url: str) -> None:
    """Run histories; print their acts and reads, and how many mirrors were wrong."""
    logging.disable(logging.CRITICAL)
    began, acts, reads, wrong = time.monotonic(), 0, 0, 0
    with timeless(url) as (database, clock):
        for number in range(count):
            with closing(History(database, clock, seed=number // 2, is_notified=number % 2 == 0)) as history:
                found = _run(history)
                acts, reads, wrong = acts + history.acts, reads + history.reads, wrong + bool(found)
                for difference in found:
                    print(f"history {history.seed}, notified {history.is_notified}: {difference}", file=sys.stderr)
    print(acts, reads, wrong, f"{time.monotonic() - began:.0f}")


def _run(history: History) -> Sequence[str]:
    history.run()
    if not history.is_notified:
        history.reconcile()
    return history.differences()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
