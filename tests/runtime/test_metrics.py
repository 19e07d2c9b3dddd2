import pytest
from prometheus_client import generate_latest

from runtime.metrics import Metrics


def test_two_processes_share_no_counters() -> None:
    """Each set of metrics counts for itself."""
    one, other = Metrics(), Metrics()

    one.reads.labels("found").inc()

    assert one.registry.get_sample_value("meldwatch_meld_reads_total", {"outcome": "found"}) == 1
    assert other.registry.get_sample_value("meldwatch_meld_reads_total", {"outcome": "found"}) is None


def test_every_metric_has_the_prefix_and_a_help_text() -> None:
    """All metric names begin with the name of the program, and all metrics are described."""
    lines = generate_latest(Metrics().registry).decode().splitlines()

    assert all(line.split()[2].startswith("meldwatch_") for line in lines if line.startswith("# HELP"))
    assert all(len(line.split()) > 3 for line in lines if line.startswith("# HELP"))


@pytest.mark.parametrize(
    ("attribute", "name", "old_name"),
    [
        ("failed_notifications", "meldwatch_worker_notifications_failed", "meldwatch_worker_calls_lost"),
        ("discarded_reads", "meldwatch_reads_discarded", "meldwatch_reads_outrun"),
        ("discarded_pushes", "meldwatch_pushes_discarded", "meldwatch_pushes_overtaken"),
    ],
)
def test_renamed_metrics_keep_their_old_names(attribute: str, name: str, old_name: str) -> None:
    """For one release a renamed counter is exposed under both names, with the same value and creation time."""
    metrics = Metrics()

    getattr(metrics, attribute).inc(3)

    value_of = metrics.registry.get_sample_value
    assert (value_of(f"{name}_total"), value_of(f"{old_name}_total")) == (3, 3)
    assert value_of(f"{name}_created") == value_of(f"{old_name}_created")
    assert f"# HELP {old_name}_total Deprecated: use {name}_total." in generate_latest(metrics.registry).decode()
