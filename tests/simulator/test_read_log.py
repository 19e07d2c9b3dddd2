from simulator.read_log import ReadLog
from tests.simulator.fakes import Clock


def test_every_read_is_recorded_with_its_times(clock: Clock) -> None:
    """A read is under way until it ends, and is counted when it begins."""
    reads = ReadLog(clock)
    first, second = reads.begin("c"), reads.begin(None)
    clock.advance(seconds=2)

    reads.end(first, "answered", 200)

    assert [(one.view()["ended"], one.status, one.outcome) for one in (first, second)] == [
        ("2026-01-02T12:00:02.000000Z", 200, "answered"),
        (None, None, "under way"),
    ]
    assert (reads.count("c"), reads.count(None), reads.counts()) == (1, 1, {"c": 1})


def test_a_cleared_log_counts_from_zero(clock: Clock) -> None:
    """Clearing deletes reads and counts."""
    reads = ReadLog(clock)
    reads.begin("c")

    reads.clear()

    assert (reads.all(), reads.counts()) == ([], {})
