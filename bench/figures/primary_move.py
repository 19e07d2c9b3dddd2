"""Figure move: time and reads until all members of a duplicate group show that their primary moved."""

import time
from statistics import median

from sqlalchemy import text

from bench.harness.service import DEPLOYMENTS, DESCRIPTIONS, DeploymentFactory, Service
from bench.harness.stack import Stack, wait_until
from bench.report import Figure
from tests.support.processes.servers import free_ports

MEMBERS = 5
MELD_MS = 50
ROUNDS = 15
CONFIRMING_SECONDS = 40.0
"""Time for the confirming reads after the last round."""


def measure(stack: Stack) -> Figure:
    """Measure both deployments."""
    figure = Figure(
        "move",
        f"the primary moves in a group of {MEMBERS}, Meld announces it for two of them and answers in {MELD_MS} ms",
        ["deployment", "rounds", "ms until all agree, median", "max", "reads until then, median", "max", "later"],
    )
    for deploy in DEPLOYMENTS:
        _measure(figure, stack, deploy)
    figure.notes.append(
        "From the change at Meld until every member's row shows the new primary. The change is an aggregation of"
        " another member; all its webhooks are sent at once and arrive. Later: confirming reads within"
        f" {CONFIRMING_SECONDS:g} s of the last round."
    )
    return figure


def _measure(figure: Figure, stack: Stack, deploy: DeploymentFactory) -> None:
    (port,) = free_ports(1)
    with stack.simulated_meld(port, MELD_MS) as meld, deploy(stack, port=port, meld=meld.url) as service:
        members = meld.create_group(MEMBERS)
        wait_until(lambda: service.count_rows("connection") == MEMBERS, 30, "the group in the mirror")
        service.wait_until_idle()
        times, reads = [], []
        for number in range(3 if stack.is_quick else ROUNDS):
            before, began = meld.reads(), time.monotonic()
            primary = members[number % MEMBERS]
            meld.run_action(primary, "aggregate")
            wait_until(lambda primary=primary: _all_show_primary(service, primary), 30, "all members show the primary")  # type: ignore[misc]
            times.append(1000 * (time.monotonic() - began))
            wait_until(service.is_idle_except_confirming, 30, "reads")
            reads.append(meld.reads() - before)
        before = meld.reads()
        if not stack.is_quick:
            time.sleep(CONFIRMING_SECONDS)
        later = meld.reads() - before
    figure.raw[service.name] = {"milliseconds": times, "reads": reads}
    figure.rows.append(
        [DESCRIPTIONS[service.name], str(len(times)), f"{median(times):.0f}", f"{max(times):.0f}",
         f"{median(reads):.0f}", str(max(reads)), str(later)]
    )  # fmt: skip


def _all_show_primary(service: Service, primary: str) -> bool:
    # The row of the primary itself contains its own id.
    wrong = text("SELECT count(*) FROM connection WHERE primary_duplicate_id IS DISTINCT FROM :primary")
    with service.database.read() as session:
        return int(session.connection().execute(wrong, {"primary": primary}).scalar_one()) == 0
