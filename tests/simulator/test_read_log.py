from simulator.faults.read_script import ScriptedRead
from simulator.read_log import ReadLog, Script
from tests.simulator.fakes import Clock


def test_every_read_is_on_record_with_its_times(clock: Clock) -> None:
    """A read is under way until it ends, and is counted from its beginning."""
    reads = ReadLog(clock)
    first, second = reads.begin("c"), reads.begin(None)
    clock.advance(seconds=2)

    reads.end(first, "answered", 200)

    assert [(one.view()["ended"], one.status, one.outcome) for one in (first, second)] == [
        ("2026-01-02T12:00:02.000000Z", 200, "answered"),
        (None, None, "under way"),
    ]
    assert (reads.count("c"), reads.count(None), reads.counts()) == (1, 1, {"c": 1})


def test_a_cleared_record_counts_from_nothing(clock: Clock) -> None:
    """Clearing forgets reads and counts."""
    reads = ReadLog(clock)
    reads.begin("c")

    reads.clear()

    assert (reads.all(), reads.counts()) == ([], {})


def test_each_step_of_a_script_is_taken_once() -> None:
    """Steps are for the next reads of one connection, in their order."""
    script = Script()
    script.add("c", [ScriptedRead(status=500), ScriptedRead(cut=True)])

    taken = [script.take("d"), script.take("c"), script.take("c"), script.take("c")]

    assert taken == [None, ScriptedRead(status=500), ScriptedRead(cut=True), None]
