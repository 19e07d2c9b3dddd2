from prometheus_client import generate_latest

from runtime.metrics import Metrics


def test_two_processes_share_no_counters() -> None:
    """Each set of counters counts for itself."""
    one, other = Metrics(), Metrics()

    one.reads.labels("found").inc()

    assert one.registry.get_sample_value("meldwatch_meld_reads_total", {"outcome": "found"}) == 1
    assert other.registry.get_sample_value("meldwatch_meld_reads_total", {"outcome": "found"}) is None


def test_everything_counted_bears_the_programs_name() -> None:
    """All series begin with the program's name and say what they are."""
    lines = generate_latest(Metrics().registry).decode().splitlines()

    assert all(line.split()[2].startswith("meldwatch_") for line in lines if line.startswith("# HELP"))
    assert all(len(line.split()) > 3 for line in lines if line.startswith("# HELP"))
