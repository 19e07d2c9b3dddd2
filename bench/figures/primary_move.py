"""Move: the primary of a duplicate group moves, and all members are to show it."""

import time
from statistics import median

from sqlalchemy import text

from bench.harness.stack import DESCRIPTIONS, SETUPS, Service, Setup, Stack, until
from bench.report import Figure
from tests.support.servers import free_ports

MEMBERS = 5
MELD_MS = 50
ROUNDS = 15
SETTLED_SECONDS = 40.0
"""Until reads that are owed to doubt alone have been done."""


def measure(stack: Stack) -> Figure:
    """Measure both set-ups."""
    figure = Figure(
        "move",
        f"the primary moves in a group of {MEMBERS}, Meld announces it for two of them and answers in {MELD_MS} ms",
        ["set-up", "rounds", "ms until all agree, median", "most", "reads until then, median", "most", "later"],
    )
    for setup in SETUPS:
        _measure(figure, stack, setup)
    figure.notes.append(
        "From the change at Meld until every member's row names the new primary. The act is an aggregation of another"
        " member; its webhooks are sent at once and all arrive. Later: reads within"
        f" {SETTLED_SECONDS:g} s of the last round that confirm what was seen."
    )
    return figure


def _measure(figure: Figure, stack: Stack, setup: Setup) -> None:
    (port,) = free_ports(1)
    with stack.simulated_meld(port, MELD_MS) as meld, setup(stack, port=port, meld=meld.url) as service:
        members = meld.group(MEMBERS)
        until(lambda: service.rows("connection") == MEMBERS, 30, "the group in the mirror")
        service.wait_until_quiet()
        times, reads = [], []
        for number in range(3 if stack.is_quick else ROUNDS):
            before, began = meld.reads(), time.monotonic()
            primary = members[number % MEMBERS]
            meld.act(primary, "aggregate")
            until(lambda primary=primary: _agree(service, primary), 30, "agreement")  # type: ignore[misc]
            times.append(1000 * (time.monotonic() - began))
            until(service.is_read, 30, "the end of the reads")
            reads.append(meld.reads() - before)
        before = meld.reads()
        if not stack.is_quick:
            time.sleep(SETTLED_SECONDS)
        later = meld.reads() - before
    figure.raw[service.name] = {"milliseconds": times, "reads": reads}
    figure.rows.append(
        [DESCRIPTIONS[service.name], str(len(times)), f"{median(times):.0f}", f"{max(times):.0f}",
         f"{median(reads):.0f}", str(max(reads)), str(later)]
    )  # fmt: skip


def _agree(service: Service, primary: str) -> bool:
    # Of a member that is its own primary the field names the connection itself.
    wrong = text("SELECT count(*) FROM connection WHERE primary_duplicate_id IS DISTINCT FROM :primary")
    with service.database.read() as session:
        return int(session.connection().execute(wrong, {"primary": primary}).scalar_one()) == 0
